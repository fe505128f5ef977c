# SPDX-License-Identifier: Apache-2.0
"""Required content of a checkpoint for export, training, and as a teacher."""

import json
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from sparse_deploy.data.tasks import TaskKind, get_task
from sparse_deploy.errors import CheckpointError, ConfigError
from sparse_deploy.modeling import load_finetuned, load_for_training, load_teacher


def test_an_encoder_gets_a_head_for_training(tiny_encoder):
    model = load_for_training(tiny_encoder, get_task("mnli"), dropout=0.0)
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert model.classifier.out_features == 3
    assert model.config.hidden_dropout_prob == 0.0


def test_a_head_of_another_size_starts_anew(trained_checkpoint):
    model = load_for_training(trained_checkpoint, get_task("stsb"))
    assert model.classifier.out_features == 1
    assert model.config.problem_type == "regression"


def test_an_encoder_without_a_head_can_not_be_exported_or_teach(tiny_encoder):
    with pytest.raises(CheckpointError, match=r"classifier.*fine-tune first"):
        load_finetuned(tiny_encoder, TaskKind.CLASSIFICATION)
    with pytest.raises(ConfigError, match="expected a model fine-tuned on demo"):
        load_teacher(tiny_encoder, get_task("demo"))


def test_missing_and_misshapen_encoder_weights_are_refused(tiny_encoder, tmp_path):
    name = "encoder.layer.1.output.dense.weight"
    for number, damage in enumerate((lambda w: w.pop(name), lambda w: w.__setitem__(name, w[name][:5].clone()))):
        folder = shutil.copytree(tiny_encoder, tmp_path / str(number))
        weights = load_file(folder / "model.safetensors")
        damage(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
            load_for_training(folder, get_task("demo"))


def test_a_model_type_without_the_task_is_a_config_error(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder, tmp_path / "vision")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises((ConfigError, CheckpointError)):
        load_finetuned(folder, TaskKind.QUESTION_ANSWERING)


def test_an_allowed_pickle_still_runs_no_code(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError):
        load_for_training(folder, get_task("demo"), allow_pickle=True)
    assert not marker.exists()


def test_a_head_that_learnt_other_labels_starts_anew_and_says_so(tiny_encoder, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    from sparse_deploy.data.tasks import TextClassification

    labels = {0: "joy", 1: "anger"}
    AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=2, id2label=labels).save_pretrained(
        tmp_path
    )
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path).classifier.weight
    notes = []
    same = load_for_training(tmp_path, TextClassification("t", labels=("joy", "anger")), note=notes.append)
    assert torch.equal(same.classifier.weight, saved)
    assert notes == []
    other = load_for_training(tmp_path, TextClassification("t", labels=("red", "blue")), note=notes.append)
    assert not torch.equal(other.classifier.weight, saved)
    assert other.config.id2label == {0: "red", 1: "blue"}
    assert "is initialized again: the model's labels were joy, anger" in notes[0]
