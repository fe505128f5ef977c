# SPDX-License-Identifier: Apache-2.0
"""Which task a model and a recipe make together, and the contradictions that are refused."""

import json
from pathlib import Path

import pytest

from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.data.labels import match_labels, sorted_labels
from sparse_deploy.data.resolve import task_of, task_to_train, task_without_labels
from sparse_deploy.data.tasks import PoolingMode, TaskKind
from sparse_deploy.errors import CheckpointError, ConfigError


def model(folder: Path, architecture: str = "BertForSequenceClassification", **config) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], **config}), encoding="utf-8")
    return folder


def recipe(**keys):
    return recipe_from_mapping(keys, "test")


def labelled(*names: str) -> dict:
    return {"id2label": {str(number): name for number, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("architecture", "config", "kind"),
    [
        ("BertForSequenceClassification", labelled("no", "yes"), TaskKind.CLASSIFICATION),
        (
            "RobertaForSequenceClassification",
            {"problem_type": "multi_label_classification", **labelled("a", "b")},
            TaskKind.MULTI_LABEL,
        ),
        ("BertForSequenceClassification", labelled("LABEL_0"), TaskKind.REGRESSION),
        ("BertForSequenceClassification", {"sentence_transformers": {}, **labelled("LABEL_0")}, TaskKind.RANKING),
        ("DistilBertForTokenClassification", labelled("O", "B-PER"), TaskKind.TOKEN_CLASSIFICATION),
        ("BertForQuestionAnswering", {}, TaskKind.QUESTION_ANSWERING),
    ],
)
def test_a_models_config_says_its_task_and_labels(tmp_path, architecture, config, kind):
    task = task_of(recipe(), model(tmp_path, architecture, **config))
    assert task.kind is kind
    if task.labels:
        assert list(task.labels) == list(config["id2label"].values())


def test_a_folder_of_sentence_transformers_says_its_pooling(tmp_path):
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (tmp_path / "1_Pooling").mkdir()
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    task = task_of(recipe(), model(tmp_path, "BertModel"))
    assert (task.kind, task.pooling.mode, task.pooling.normalize) == (TaskKind.EMBEDDING, PoolingMode.CLS, False)
    settings.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(CheckpointError, match=r"expected CLS or mean pooling, found pooling_mode_max_tokens"):
        task_of(recipe(), tmp_path)
    modules.append({"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(CheckpointError, match="Dense"):
        task_of(recipe(), tmp_path)


def test_an_encoder_without_a_head_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"found BertModel; fine-tune first: sparse-deploy finetune --model"):
        task_of(recipe(), model(tmp_path, "BertModel"))


@pytest.mark.parametrize("names", [("POSITIVE", "NEGATIVE"), ("positive", "negative")])
def test_labels_are_mapped_by_name_whatever_their_order(tmp_path, names):
    task = task_of(recipe(task="sst2"), model(tmp_path, **labelled(*names)))
    assert task.labels == ("negative", "positive")
    assert task.order == [1, 0]


def test_placeholders_stand_for_the_datas_order(tmp_path):
    assert task_of(recipe(task="sst2"), model(tmp_path, **labelled("LABEL_0", "LABEL_1"))).order == [0, 1]


def test_labels_that_contradict_are_refused_until_they_are_told(tmp_path):
    folder = model(tmp_path, **labelled("joy", "anger"))
    for use in (task_of, task_to_train):
        with pytest.raises(ConfigError, match=r"labels \(joy, anger\) are not those of the data .*task.label_names"):
            use(recipe(task="sst2"), folder)
    told = recipe(
        task={
            "type": "text-classification", "labels": ["negative", "positive"],
            "label_names": {"negative": "anger", "positive": "joy"},
        }
    )  # fmt: skip
    assert task_of(told, folder).order == [1, 0]


def test_several_labels_are_no_single_one(tmp_path):
    folder = model(tmp_path, problem_type="multi_label_classification", **labelled("negative", "positive"))
    with pytest.raises(ConfigError, match=r"problem_type is 'multi_label_classification'.*multi-label-classification"):
        task_of(recipe(task="sst2"), folder)


def test_labels_of_data_are_sorted_numbers_by_value():
    assert sorted_labels({"10", "9", "1"}) == ("1", "9", "10")
    assert sorted_labels({"b", "O", "a"}) == ("O", "a", "b")
    assert match_labels(("a", "b"), ("B", "A"), {}, "m") == ("b", "a")


def test_a_model_learns_the_datas_labels_or_keeps_its_own_order(tmp_path):
    (tmp_path / "t.csv").write_text("text,team\nhello,red\nbye,blue\n", encoding="utf-8")
    wanted = {"data": {"source": str(tmp_path / "t.csv"), "label_column": "team"}}
    mine = recipe(task={"type": "text-classification"}, **wanted)
    assert task_to_train(mine, model(tmp_path, "BertModel")).labels == ("blue", "red")
    assert task_to_train(mine, model(tmp_path, **labelled("red", "blue"))).labels == ("red", "blue")


def test_data_without_labels_is_told_from_data_with_them(tmp_path):
    """A label column that is named or that the task would read; and pairs, by which a sentence encoder is scored."""
    classifier = model(tmp_path, **labelled("no", "yes"))
    texts, rows, pairs = tmp_path / "texts.txt", tmp_path / "rows.csv", tmp_path / "pairs.csv"
    texts.write_text("one\ntwo\n")
    rows.write_text("text,label\none,no\n")
    pairs.write_text("sentence1,sentence2\none,two\n")

    def found(source: Path, folder: Path = classifier, task: object = None, **data: object):
        return task_without_labels(recipe(task=task, data={"source": str(source), **data}), folder)

    assert found(texts).labels == ("no", "yes")
    assert found(pairs, text_columns=["sentence1"]).kind is TaskKind.CLASSIFICATION
    assert found(rows) is None
    assert found(pairs, label_column="sentence2") is None
    assert task_without_labels(recipe(), classifier) is None
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    embedding = {"type": "sentence-embedding"}
    model(encoder, "BertModel")
    assert found(texts, encoder, embedding).kind is TaskKind.EMBEDDING
    assert found(pairs, encoder, embedding) is None
