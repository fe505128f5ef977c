# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every suite shares: tiny real checkpoints, real text where it is, quiet libraries."""

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
# The same examples in each run, however slow the machine; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real GLUE and SQuAD text; tests that need it are skipped where it is not."""
    if not REAL_DATA.is_dir():
        pytest.skip("no ../shared/data here")
    return REAL_DATA


@pytest.fixture
def without_operators(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As where the compiled operators are missing."""
    from sparse_deploy.kernels import loader

    monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("no-operators")))
    loader.open_library.cache_clear()
    yield
    loader.open_library.cache_clear()


@pytest.fixture(scope="session")
def reused_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Many tests export the same tiny model: it is traced once in a run."""
    from reused_traces import reused_traces

    # The workers of one run have their folders in a common one.
    base = tmp_path_factory.getbasetemp()
    with reused_traces((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "onnx-graphs"):
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT encoder (hidden 32), as a plain HF folder."""
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
    """A deployment of the sparse tiny encoder with a random head, in every format; tests change a copy of it."""
    folder = tmp_path_factory.mktemp("tiny") / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder)
    seal_deployment(folder, BENCH_RECIPE)
    return folder


@pytest.fixture(scope="session")
def trained_checkpoint(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 70 % sparse tiny encoder, fine-tuned on the demo text for some steps by the real stage."""
    from sparse_deploy.stages.finetune import finetune

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    finetune(demo_recipe(sparse_encoder), output)
    return output
