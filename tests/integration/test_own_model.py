# SPDX-License-Identifier: Apache-2.0
"""A user's own model and file, without a recipe: fine-tuned, exported, and served."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from learnt_deployment import BAD, FRAME, GOOD
from own_models import export_fp32, save_classifier, save_tagger
from starlette.testclient import TestClient

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.config.loader import load_recipe
from sparse_deploy.errors import ExitCode
from sparse_deploy.serving.app import create_app
from sparse_deploy.serving.settings import ServerSettings
from sparse_deploy.stages.default_recipe import recipe_of_checkpoint


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


def test_a_setting_of_the_task_needs_no_type(tiny_encoder, tmp_path, capsys):
    row = {"question": "where", "context": "in paris", "answers": {"text": ["paris"], "answer_start": [3]}}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    command = ["recipe", str(tiny_encoder), "--data", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "q.yaml")]
    assert run([*command, "--set", "task.unanswerable=true"]) == 0
    written = load_recipe(tmp_path / "q.yaml").task
    assert (written.type, written.unanswerable) == ("question-answering", True)
    assert run([*command, "--set", "task.unanswerble=true"]) == ExitCode.USAGE
    assert "unknown key 'task.unanswerble'; did you mean 'unanswerable'?" in capsys.readouterr().err


def test_what_would_end_a_run_after_training_is_refused_before_it(tiny_encoder, tickets, tmp_path, capsys):
    def refused(*options: object) -> str:
        command = ["finetune", "--model", str(tiny_encoder), "--output", str(tmp_path / "out"), "--quiet"]
        assert run([*command, *map(str, options)]) in (ExitCode.USAGE, ExitCode.BAD_ARTIFACT)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
        return capsys.readouterr().err

    own = ("--data", tickets, "--label-column", "team")
    assert "at most 128 tokens" in refused(*own, "--set", "data.max_length=200")
    few = tmp_path / "few.csv"
    few.write_text("body,team\nthe room was good,praise\n", encoding="utf-8")
    assert "1 rows can't be split" in refused("--data", few, "--label-column", "team")
    (tmp_path / "text" / "sst2").mkdir(parents=True)
    (tmp_path / "text" / "sst2" / "train.jsonl").write_text('{"sentence": "good", "label": 1}\n', encoding="utf-8")
    message = refused("-c", "minilm-sst2-dense", "--data-dir", tmp_path / "text")
    assert "expected sst2/validation.jsonl.gz or sst2/validation.jsonl, found train.jsonl" in message


def test_entities_are_served_as_spans(tiny_encoder, tmp_path):
    save_tagger(tiny_encoder, tmp_path / "model", ["O", "B-PER", "I-PER"])  # every word begins an entity
    deployment = export_fp32(tmp_path / "model", tmp_path / "out")
    assert load_manifest(deployment, "deployment").task == "token-classification"
    with client(deployment) as http:
        reply = http.post("/v2/models/own/infer", json=asked(text="lovely staff")).json()
        (entities,) = (json.loads(text) for text in reply["outputs"][0]["data"])
        assert [(one["entity_group"], one["word"], one["start"]) for one in entities] == [
            ("PER", "lovely", 0), ("PER", "staff", 7),
        ]  # fmt: skip
        assert http.post("/v1/embeddings", json={"input": "x"}).status_code == 404


def test_vectors_are_served_in_openais_shape(sentence_encoder, sentence_deployment):
    import torch
    from transformers import AutoModel, AutoTokenizer

    # sentence-transformers still reads the folder
    assert (sentence_deployment / "1_Pooling" / "config.json").is_file()

    texts = ["the staff was lovely", "it was good"]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(sentence_encoder),
        AutoModel.from_pretrained(sentence_encoder).eval(),
    )
    expected = []
    for text in texts:
        with torch.no_grad():
            vector = model(**tokenizer(text, return_tensors="pt", padding=False)).last_hidden_state[0].mean(0)
        expected.append((vector / vector.norm()).numpy())
    with client(sentence_deployment) as http:
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


def test_a_cross_encoder_ranks_documents_in_the_shape_of_text_embeddings_inference(tiny_encoder, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "model")
    deployment = export_fp32(tmp_path / "model", tmp_path / "out")
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


def test_several_labels_over_the_threshold_are_served_and_no_ranking(tiny_encoder, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    labels = ["food", "price", "staff"]
    model = save_classifier(tiny_encoder, tmp_path / "model", labels, problem_type="multi_label_classification")
    weights = load_file(model / "model.safetensors")
    weights["classifier.weight"] *= 0
    weights["classifier.bias"] = torch.tensor([2.0, -2.0, 0.1])  # sigmoid: 0.88, 0.12, 0.52
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    deployment = export_fp32(model, tmp_path / "out")
    assert load_manifest(deployment, "deployment").task == "multi-label-classification"
    with client(deployment) as http:
        reply = http.post("/v2/models/own/infer", json=asked(text="lovely staff")).json()
        found = {one["name"]: one["data"] for one in reply["outputs"]}
        assert [json.loads(text) for text in found["labels"]] == [["food", "staff"]]
        assert found["probabilities"] == pytest.approx([0.8808, 0.1192, 0.5250], abs=1e-4)
        refused = http.post("/rerank", json={"query": "a", "texts": ["b"]})
        assert (refused.status_code, refused.json()["error_type"]) == (404, "validation")
        assert refused.json()["error"] == (
            "this path needs a cross-encoder with one logit, own is multi-label-classification"
        )


def test_a_model_of_pairs_needs_both_texts(tiny_encoder, tmp_path):
    """MNLI: a premise without its hypothesis entails nothing."""
    model = save_classifier(tiny_encoder, tmp_path / "model", ["entailment", "neutral", "contradiction"])
    (tmp_path / "text" / "mnli").mkdir(parents=True)
    row = json.dumps({"premise": "the staff was lovely", "hypothesis": "it was good", "label": 0})
    for split in ("validation_matched", "validation_mismatched"):
        (tmp_path / "text" / "mnli" / f"{split}.jsonl").write_text(row + "\n", encoding="utf-8")
    deployment = export_fp32(model, tmp_path / "out", "task=mnli", data_dir=tmp_path / "text")
    with client(deployment) as http:
        refused = http.post("/v2/models/own/infer", json=asked(text="the staff was lovely"))
        assert refused.status_code == 400
        assert "expected inputs text and text_pair" in refused.json()["error"]
        answered = http.post("/v2/models/own/infer", json=asked(text="the staff was lovely", text_pair="it was bad"))
        assert answered.status_code == 200
