# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all suites: tiny checkpoints, real text if present, libraries without progress output."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_checkpoint import demo_recipe, prune_folder
from tiny_deployment import BENCH_RECIPE, seal_deployment, write_models

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
for noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
# The same examples in each run, without time limits; HYPOTHESIS_PROFILE=explore searches for new examples.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real GLUE and SQuAD text; tests that need it are skipped if it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip("../shared/data is missing")
    return REAL_DATA


@pytest.fixture
def without_operators(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Simulate an installation without the compiled operators."""
    from sparse_deploy.kernels import loader

    monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("no-operators")))
    loader.open_library.cache_clear()
    yield
    loader.open_library.cache_clear()


@pytest.fixture(scope="session")
def reused_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cache traces: many tests export the same tiny model."""
    from reused_traces import reused_traces

    # The workers of one run share a parent folder.
    base = tmp_path_factory.getbasetemp()
    with reused_traces((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "onnx-graphs"):
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT encoder (hidden 32), as a plain Hugging Face folder."""
    import torch
    from tiny_tokenizer import PIECES, save_tiny_tokenizer
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    save_tiny_tokenizer(folder, 128)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=PIECES,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sparse_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with 70 % of its encoder weights at zero."""
    return prune_folder(tiny_encoder, tmp_path_factory.mktemp("sparse") / "u70", "unstructured", 0.7)


@pytest.fixture(scope="session")
def tiny_deployment(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment of the sparse tiny encoder with a random head, in every format; tests change only copies."""
    folder = tmp_path_factory.mktemp("tiny") / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder)
    seal_deployment(folder, BENCH_RECIPE)
    return folder


@pytest.fixture(scope="session")
def trained_checkpoint(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 70 % sparse tiny encoder, fine-tuned on the demo text for some steps by the finetune stage."""
    from sparse_deploy.stages.finetune import finetune

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    finetune(demo_recipe(sparse_encoder), output)
    return output
