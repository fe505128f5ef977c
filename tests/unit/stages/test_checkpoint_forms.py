# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as people have them: half precision, vocabulary files alone, a family that this package does not know."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from tiny_architectures import save_tiny_model
from tiny_tokenizer import PIECES, VOCABULARY, save_tiny_tokenizer

from sparse_deploy.cli.main import run
from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.config.schema import Int8Mode, Recipe
from sparse_deploy.errors import ExitCode
from sparse_deploy.serving.model import open_model
from sparse_deploy.serving.settings import ServerSettings
from sparse_deploy.stages.export import export_deployment

pytestmark = pytest.mark.usefixtures("reused_traces")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def recipe(**sparsity: object) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "tiny",
            "task": "demo",
            "model": {"name_or_path": "unused"},
            "data": {"max_length": 64},
            "sparsity": sparsity or {"mode": "lock", "pattern": "unstructured", "target": 0.68},
            "export": {"openvino": False, "sparse": {"enabled": True}},
        },
        "test",
    )


def export(source: Path, folder: Path, settings: Recipe | None = None) -> dict[str, object]:
    """Export without INT8, and have the server turn a text into tokens."""
    manifest = export_deployment(str(source), settings or recipe(), folder, int8=Int8Mode.NONE)
    assert manifest.details["parity"]["model.onnx"]["max_abs"] < 1e-4
    return manifest.details


def tokens(deployment: Path, text: str) -> list[int]:
    model = open_model(ServerSettings(deployment=deployment), isolated=False)
    (feature,) = model.prepare(text_request(text)).features
    return [int(token) for token in feature["input_ids"]]


def text_request(text: str) -> object:
    from sparse_deploy.serving.inference_protocol import InferRequest, Tensor

    return InferRequest(id=None, inputs={"text": Tensor("text", (1,), [text])})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("bert", tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_exported_in_fp32_with_its_zeros(source: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    half = shutil.copytree(source, tmp_path / "half")
    weights = {name: value.to(dtype) for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    details = export(half, tmp_path / "out")
    assert len(details["sparse"]["encoder_layers"]) == 2


def test_a_vocabulary_file_alone_is_a_tokenizer(source: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns(*TOKENIZER_FILES))
    shutil.copyfile(VOCABULARY, bare / "vocab.txt")
    export(bare, tmp_path / "out")
    export(source, tmp_path / "whole")
    text = "A gripping film, and well made"
    assert tokens(tmp_path / "out", text) == tokens(tmp_path / "whole", text)


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path: Path) -> None:
    import sentencepiece
    from transformers import AutoTokenizer

    folder = save_tiny_model("xlm-roberta", tmp_path / "source")
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    content = io.BytesIO()
    words = [piece for piece in VOCABULARY.read_text(encoding="utf-8").splitlines() if piece.isalpha()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i : i + 9]) for i in range(0, len(words), 3)]), model_writer=content,
        vocab_size=200, model_type="unigram", minloglevel=2,
    )  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(content.getvalue())
    export(folder, tmp_path / "out")
    text = " ".join(words[20:26])
    expected = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert tokens(tmp_path / "out", text) == expected
    assert len(set(expected)) > 3


def test_an_unknown_family_is_exported_dense_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import SqueezeBertConfig, SqueezeBertForSequenceClassification

    torch.manual_seed(0)
    config = SqueezeBertConfig(
        vocab_size=PIECES, hidden_size=32, embedding_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=96, id2label={0: "negative", 1: "positive"},
        q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1, intermediate_groups=2, output_groups=2,
    )  # fmt: skip
    folder = tmp_path / "source"
    SqueezeBertForSequenceClassification(config).save_pretrained(folder)
    save_tiny_tokenizer(folder, 96)
    assert run(["export", str(folder), "--output", str(tmp_path / "out"), "--int8", "none"]) == ExitCode.OK
    assert "squeezebert is not a family with sparse encoder layers" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model_sparse.onnx").exists()
