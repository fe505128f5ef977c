# SPDX-License-Identifier: Apache-2.0
"""A user's own model and file, without a recipe: fine-tuned, exported, and served."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from learnt_deployment import BAD, FRAME, GOOD
from starlette.testclient import TestClient

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.config.loader import load_recipe
from sparse_deploy.serving.app import create_app
from sparse_deploy.serving.settings import ServerSettings
from sparse_deploy.stages.default_recipe import recipe_of_checkpoint
from sparse_deploy.stages.export import export_deployment

PLAIN = ("export.openvino=false", "export.sparse.enabled=false", "quantization.mode=none")


def exported(model: Path, output: Path, *overrides: str) -> Path:
    recipe = recipe_of_checkpoint(str(model), [*PLAIN, *overrides])
    export_deployment(str(model), recipe, output)
    return output


def client(deployment: Path) -> TestClient:
    return TestClient(create_app(ServerSettings(deployment=deployment, name="own", runtime="onnxruntime", threads=1)))


def asked(**texts: str) -> dict:
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1], "data": [text]} for name, text in texts.items()]
    return {"inputs": inputs}


@pytest.fixture(scope="module")
def tickets(tmp_path_factory) -> Path:
    """Three string labels, and no validation rows."""
    rng = np.random.default_rng(0)
    words = {"praise": GOOD, "blame": BAD, "talk": FRAME}
    lines = ["body,team"]
    for number in range(240):
        label = list(words)[number % 3]
        lines.append(f"{' '.join(rng.choice(FRAME, 3))} {rng.choice(words[label])} {number},{label}")
    path = tmp_path_factory.mktemp("data") / "tickets.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_file_and_a_column_are_enough_to_fine_tune_and_the_checkpoint_keeps_the_recipe(
    tiny_encoder, tickets, tmp_path, capsys
):
    named = ["--data", str(tickets), "--label-column", "team"]
    settings = ["finetune.max_steps=10", "finetune.precision=fp32", "data.max_length=32"]
    options = [*named, *(part for setting in settings for part in ("--set", setting))]
    assert run(["recipe", str(tiny_encoder), *options, "--output", str(tmp_path / "tickets.yaml")]) == 0
    written = load_recipe(tmp_path / "tickets.yaml")
    assert (written.task.type, written.data.label_column) == ("text-classification", "team")

    assert run(["finetune", "--model", str(tiny_encoder), *options, "--output", str(tmp_path / "out"), "--json"]) == 0
    manifest = load_manifest(tmp_path / "out", "checkpoint")
    assert manifest.details["labels"] == ["blame", "praise", "talk"]
    assert "10% of" in manifest.details["validation"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "blame", "1": "praise", "2": "talk"}
    recipe = recipe_of_checkpoint(str(tmp_path / "out"))
    assert recipe.task.labels == ("blame", "praise", "talk")
    assert recipe.data.text_columns == ("body",)
    assert load_recipe(tmp_path / "out" / "recipe.yaml") == recipe

    assert run(["finetune", "--model", str(tiny_encoder), "--output", str(tmp_path / "no")]) == 2
    assert "--data is missing" in capsys.readouterr().err


def test_entities_are_served_as_spans(tiny_encoder, tmp_path):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    model = AutoModelForTokenClassification.from_pretrained(tiny_encoder, num_labels=3, id2label=labels)
    model.classifier.bias.data[:] = 0
    model.classifier.bias.data[1] = 50  # every word begins an entity
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "model")
    deployment = exported(tmp_path / "model", tmp_path / "out")
    assert load_manifest(deployment, "deployment").task == "token-classification"
    with client(deployment) as http:
        reply = http.post("/v2/models/own/infer", json=asked(text="lovely staff")).json()
        (entities,) = (json.loads(text) for text in reply["outputs"][0]["data"])
        assert [(one["entity_group"], one["word"], one["start"]) for one in entities] == [
            ("PER", "lovely", 0), ("PER", "staff", 7),
        ]  # fmt: skip
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 404


def test_vectors_are_served_in_openais_shape(tiny_encoder, tmp_path):
    import shutil

    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    deployment = exported(folder, tmp_path / "out", "data.max_length=16")
    assert (deployment / "1_Pooling" / "config.json").is_file()  # sentence-transformers still reads the folder

    texts = ["the staff was lovely", "it was good"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    expected = []
    for text in texts:
        with torch.no_grad():
            vector = model(**tokenizer(text, return_tensors="pt", padding=False)).last_hidden_state[0].mean(0)
        expected.append((vector / vector.norm()).numpy())
    with client(deployment) as http:
        found = http.post("/v1/embeddings", json={"input": texts, "model": "own"}).json()
        assert (found["object"], found["model"]) == ("list", "own")
        np.testing.assert_allclose([one["embedding"] for one in found["data"]], expected, atol=1e-4)
        packed = http.post("/v1/embeddings", json={"input": texts[0], "encoding_format": "base64"}).json()
        vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
        np.testing.assert_allclose(vector, expected[0], atol=1e-4)
        assert packed["usage"]["prompt_tokens"] == len(tokenizer(texts[0])["input_ids"])

        long = " ".join(texts * 10)
        refused = http.post("/v1/embeddings", json={"input": [texts[0], long]})
        assert refused.status_code == 413
        assert "text 1 has" in refused.json()["error"]["message"]
        assert http.post("/v1/embeddings", json={"input": long, "truncate": True}).status_code == 200
        body = {**asked(text=long), "parameters": {"truncate": False}}
        assert http.post("/v2/models/own/infer", json=body).status_code == 413
        assert http.post("/v2/models/own/infer", json=asked(text=long)).status_code == 200
        assert http.post("/v2/models/own/infer", json=asked(text="a", text_pair="b")).status_code == 400
        assert http.post("/rerank", json={"query": "a", "texts": ["b"]}).status_code == 404


def test_a_cross_encoder_ranks_documents_in_the_shape_of_text_embeddings_inference(tiny_encoder, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "model")
    deployment = exported(tmp_path / "model", tmp_path / "out")
    assert load_manifest(deployment, "deployment").task == "text-ranking"
    documents = ["the room was good", "it was a dreadful phone", "staff"]
    with client(deployment) as http:
        raw = http.post("/rerank", json={"query": "room", "texts": documents, "raw_scores": True}).json()
        ranked = http.post("/rerank", json={"query": "room", "texts": documents, "return_text": True}).json()
        assert [one["score"] for one in ranked] == sorted((one["score"] for one in ranked), reverse=True)
        assert [one["index"] for one in raw] == [one["index"] for one in ranked]
        for one, plain in zip(ranked, raw, strict=True):
            assert one["score"] == pytest.approx(1 / (1 + np.exp(-plain["score"])), rel=1e-5)
            assert one["text"] == documents[one["index"]]
        # A model of pairs that is asked about one text has no answer to give.
        lone = http.post("/v2/models/own/infer", json=asked(text="room"))
        assert lone.status_code == 400
        assert "text and text_pair" in lone.json()["error"]
        wrong = http.post("/rerank", json={"query": "room", "texts": "no list"})
        assert (wrong.status_code, wrong.json()["error_type"]) == (400, "validation")
