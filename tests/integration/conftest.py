# SPDX-License-Identifier: Apache-2.0
"""Models and deployments that the integration tests share."""

from pathlib import Path

import pytest
from learnt_deployment import export_learnt
from own_models import export_fp32, save_sentence_encoder


@pytest.fixture(scope="session", autouse=True)
def _reused_traces(reused_traces: None) -> None:
    """Most of these tests export a tiny model."""


@pytest.fixture(scope="session")
def learnt(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``data``, ``checkpoint`` and ``deployment`` of a tiny model that answers 98 % of its text."""
    return export_learnt(sparse_encoder, tmp_path_factory.mktemp("learnt"))


@pytest.fixture(scope="session")
def sentence_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the format of sentence-transformers."""
    return save_sentence_encoder(tiny_encoder, tmp_path_factory.mktemp("sentence-encoder") / "model")


@pytest.fixture(scope="session")
def sentence_deployment(sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deployment of the sentence encoder; texts are truncated to 16 tokens."""
    return export_fp32(sentence_encoder, tmp_path_factory.mktemp("sentences") / "deployment", "data.max_length=16")
