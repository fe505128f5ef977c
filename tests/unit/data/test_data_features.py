# SPDX-License-Identifier: Apache-2.0
"""Features: truncation is counted, windows cover the context, nothing is padded before the batch."""

import json
from itertools import pairwise

import datasets
import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.batches import pad_batch
from sparse_deploy.data.features import encode_split, load_tokenizer, tokenize_training, tokenizer_sha256
from sparse_deploy.data.tasks import MODEL_INPUTS, get_task
from sparse_deploy.errors import CheckpointError, ConfigError

CONTEXT = "the tower was built in paris and it is good , who was not in the film ? " * 3 + "it was gustave."
ANSWER = {"text": ["gustave"], "answer_start": [CONTEXT.index("gustave")]}


@pytest.fixture
def sentences():
    return datasets.Dataset.from_list(
        [{"sentence": "the film was good", "label": 1}, {"sentence": "the film was bad " * 5, "label": 0}]
    )


@pytest.fixture
def questions():
    return datasets.Dataset.from_list(
        [
            {"id": "q1", "question": "  who built it", "context": CONTEXT, "answers": ANSWER},
            {
                "id": "q2",
                "question": "where",
                "context": "in paris",
                "answers": {"text": ["paris"], "answer_start": [3]},
            },
        ]
    )


def test_classification_is_cut_counted_and_not_padded(sentences, tokenizer):
    split = encode_split(get_task("sst2"), sentences, tokenizer, DataSection(max_length=8), name="dev")
    assert split.lengths.tolist() == [6, 8]
    assert split.truncated == 1
    assert split.name == "dev"
    assert [example["id"] for example in split.examples] == [0, 1]
    assert split.windows is None
    first = split.features[0]
    assert set(first) == set(MODEL_INPUTS)
    assert all(array.dtype == np.int64 for array in first.values())
    assert tokenizer.decode(first["input_ids"]) == "[CLS] the film was good [SEP]"


def test_pairs_carry_token_types(tokenizer):
    rows = datasets.Dataset.from_list([{"sentence1": "the film", "sentence2": "the tower was", "label": 2.5}])
    split = encode_split(get_task("stsb"), rows, tokenizer, DataSection())
    assert split.features[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert split.truncated == 0


def test_training_rows_equal_evaluation_features(sentences, tokenizer):
    data = DataSection(max_length=8)
    training = tokenize_training(get_task("sst2"), sentences, tokenizer, data)
    split = encode_split(get_task("sst2"), sentences, tokenizer, data)
    assert set(training.column_names) == {*MODEL_INPUTS, "labels", "length"}
    assert list(training["labels"]) == [1, 0]
    assert list(training["length"]) == split.lengths.tolist()
    for row, feature in zip(training, split.features, strict=True):
        assert all(row[key] == feature[key].tolist() for key in MODEL_INPUTS)


def test_windows_overlap_and_cover_the_whole_context(questions, tokenizer):
    data = DataSection(max_length=24, doc_stride=6)
    split = encode_split(get_task("squad"), questions, tokenizer, data)
    assert split.lengths.max() <= 24
    assert (np.diff(split.example_of) >= 0).all()
    assert (split.example_of == 1).sum() == 1
    windows = [split.windows[i] for i in np.flatnonzero(split.example_of == 0)]
    first = [window.spans[window.spans[:, 0] >= 0] for window in windows]
    assert len(first) > 3
    covered = np.zeros(len(CONTEXT), bool)
    for spans in first:
        for start, end in spans:
            covered[start:end] = True
    assert all(covered[i] or CONTEXT[i] == " " for i in range(len(CONTEXT)))
    for left, right in pairwise(first):
        assert left[-6:].tolist() == right[:6].tolist()


def test_training_windows_point_at_the_answer_or_at_cls(questions, tokenizer):
    rows = tokenize_training(get_task("squad"), questions, tokenizer, DataSection(max_length=24, doc_stride=6))
    answers = []
    for row in rows:
        start, end = row["start_positions"], row["end_positions"]
        assert (start == 0) == (end == 0)
        if start:
            answers.append(tokenizer.decode(row["input_ids"][start : end + 1]))
    assert "gustave" in answers
    assert "paris" in answers
    assert set(answers) == {"gustave", "paris"}
    assert sum(row["start_positions"] == 0 for row in rows) > 2


def test_window_without_room_for_the_overlap_is_refused(questions, tokenizer):
    with pytest.raises(ConfigError, match=r"data\.max_length 16 leaves 10 context tokens .* data\.doc_stride 10"):
        encode_split(get_task("squad"), questions, tokenizer, DataSection(max_length=16, doc_stride=10))


def test_question_longer_than_the_window_is_cut(tokenizer):
    rows = datasets.Dataset.from_list(
        [
            {
                "id": "q",
                "question": "who " * 200,
                "context": "in paris",
                "answers": {"text": ["paris"], "answer_start": [3]},
            }
        ]
    )
    split = encode_split(get_task("squad"), rows, tokenizer, DataSection(max_length=96, doc_stride=16))
    assert split.lengths.tolist() == [64 + 3 + 2]


def test_pad_batch(sentences, tokenizer):
    split = encode_split(get_task("sst2"), sentences, tokenizer, DataSection(max_length=8))
    batch = pad_batch(split.features, pad_id=9)
    assert batch["input_ids"][0, 6:].tolist() == [9, 9]
    assert batch["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 8]
    assert {array.shape for array in pad_batch(split.features, length=16).values()} == {(2, 16)}
    assert all(array.dtype == np.int64 for array in batch.values())


def test_tokenizer_that_carries_padding_comes_without(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["padding"] = {
        "strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    settings["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(tmp_path)
    assert len(loaded.backend_tokenizer.encode("the film was good").ids) == 6
    assert len(loaded("the film was good")["input_ids"]) == 6


def test_missing_and_damaged_tokenizer(tokenizer_folder, tmp_path_factory):
    with pytest.raises(CheckpointError, match=r"expected a tokenizer, one of tokenizer\.json, vocab\.txt"):
        load_tokenizer(tmp_path_factory.mktemp("empty"))
    (tokenizer_folder / "tokenizer.json").write_text('{"version": "1.0", "model": ')
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load_tokenizer(tokenizer_folder)


def test_a_tokenizer_is_known_by_what_it_does(tiny_encoder, tmp_path):
    known = tokenizer_sha256(load_tokenizer(tiny_encoder))
    load_tokenizer(tiny_encoder).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["padding"] = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=1))
    assert tokenizer_sha256(load_tokenizer(tmp_path)) == known
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_sha256(load_tokenizer(tmp_path)) != known
