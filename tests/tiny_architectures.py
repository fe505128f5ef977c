# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family, as checkpoint folders with the tiny tokenizer and zeros in the encoder."""

import json
from pathlib import Path
from typing import Any

from tiny_tokenizer import PIECES, save_tiny_tokenizer

from sparse_deploy.sparsity.statistics import prunable_names

POSITIONS = 96  # usable positions
_SIZES = {
    "vocab_size": PIECES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": POSITIONS, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
_BEHIND_PADDING = {"pad_token_id": 0, "max_position_embeddings": POSITIONS + 1}
# Model type, and the config values of this type.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "tinybert": ("bert", {"hidden_size": 52}),  # heads of 26, as TinyBERT's 312 / 12
    "roberta": ("roberta", {**_BEHIND_PADDING, "type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", {**_BEHIND_PADDING, "type_vocab_size": 1}),
    "camembert": ("camembert", {**_BEHIND_PADDING, "type_vocab_size": 1}),
    "distilbert": ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "electra": ("electra", {"embedding_size": 16}),
    # The padding id is 1 in the code, independent of the config; the tiny tokenizer's id 1 is [UNK].
    "mpnet": ("mpnet", {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "albert": ("albert", {"embedding_size": 16}),
    "deberta-v2": (
        "deberta-v2",
        {
            "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0,
        },
    ),
    "modernbert": (
        "modernbert",
        {
            "local_attention": 16, "num_hidden_layers": 3, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3,
            "eos_token_id": 3,
        },
    ),
}  # fmt: skip


def tiny_model(name: str, *, zeros: float = 0.7, **changes: Any) -> Any:
    """A sequence classifier of a family with random weights, eager attention, and zeros in each encoder matrix."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from sparse_deploy.architectures import dense_parts

    model_type, own = FAMILIES[name]
    sizes = {} if "dim" in own else {key: value for key, value in _SIZES.items() if key not in own}
    if "dim" in own:
        sizes = {key: _SIZES[key] for key in ("vocab_size", "max_position_embeddings", "initializer_range")}
    config = AutoConfig.for_model(model_type, **(sizes | own | changes))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        weights = {key: value for key, value in model.named_parameters() if value.ndim == 2}
        for key in prunable_names(weights, dense_parts()):
            weights[key][torch.rand_like(weights[key]) < zeros] = 0
        for key, value in model.named_parameters():
            if value.ndim == 1 and "bias" in key:
                value.normal_(0, 0.1)
    return model.eval()


def save_tiny_model(name: str, folder: Path, **options: Any) -> Path:
    """Save :func:`tiny_model` as a checkpoint for the demo task."""
    model = tiny_model(name, **options)
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder, POSITIONS)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change values of a ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
