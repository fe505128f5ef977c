# SPDX-License-Identifier: Apache-2.0
"""A tiny sparse BERT classifier, and token ids of several lengths for its calibration."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from sparse_deploy.export.exporter import ExportableModel

VOCABULARY = 120


def tiny_bert(hidden_act: str = "gelu") -> BertForSequenceClassification:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        hidden_act=hidden_act,
        attn_implementation="eager",
        initializer_range=0.3,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "encoder" in name and name.endswith("dense.weight"):
                parameter[torch.rand_like(parameter) < 0.7] = 0.0
    return model


@pytest.fixture(scope="session")
def model() -> ExportableModel:
    """A shared model; tests must not change it."""
    return ExportableModel(tiny_bert(), ["logits"])


@pytest.fixture(scope="session")
def features() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    lengths = [3, 4, 4, 5, 5, 5, 7, 9, 12, 12, 20, 31]
    return [
        {
            "input_ids": random.integers(1, VOCABULARY, length),
            "attention_mask": np.ones(length, dtype=np.int64),
            "token_type_ids": np.zeros(length, dtype=np.int64),
        }
        for length in lengths
    ]


@pytest.fixture(scope="session")
def padded_batch(features: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    chosen = [features[1], features[7], features[10]]
    tokens = max(len(feature["input_ids"]) for feature in chosen)
    return {
        name: np.stack([np.pad(feature[name], (0, tokens - len(feature[name]))) for feature in chosen])
        for name in chosen[0]
    }
