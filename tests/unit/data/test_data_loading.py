# SPDX-License-Identifier: Apache-2.0
"""Loading from a local folder, and one clear line for each error."""

import gzip
import json

import pytest

from sparse_deploy.data.loading import load_split, row_sha256
from sparse_deploy.data.tasks import TASKS, get_task
from sparse_deploy.errors import DataError

SST2 = get_task("sst2")
SQUAD = get_task("squad")
CONTEXT = "The tower was built in Paris."


def write_split(folder, rows, task="sst2", split="validation", suffix=".jsonl"):
    path = folder / task / f"{split}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    return path


def question(**changes):
    answers = {"text": ["Paris"], "answer_start": [CONTEXT.index("Paris")]}
    return {"id": "q1", "question": "Where?", "context": CONTEXT, "answers": answers, **changes}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_label_ids_and_label_names_become_ids_and_foreign_columns_go(tmp_path, suffix):
    rows = [{"sentence": "good", "label": 1, "idx": 7}, {"sentence": "bad", "label": "negative", "idx": 8}]
    write_split(tmp_path, rows, suffix=suffix)
    loaded = load_split(SST2, "validation", tmp_path)
    assert loaded.to_list() == [{"sentence": "good", "label": 1}, {"sentence": "bad", "label": 0}]


def test_shuffle_is_seeded_and_limit_comes_after_it(tmp_path):
    write_split(tmp_path, [{"sentence": f"text {i}", "label": i % 2} for i in range(50)])
    whole = load_split(SST2, "validation", tmp_path)["sentence"]
    shuffled = load_split(SST2, "validation", tmp_path, shuffle_seed=3)["sentence"]
    assert sorted(shuffled) == sorted(whole)
    assert list(shuffled) != list(whole)
    assert list(load_split(SST2, "validation", tmp_path, shuffle_seed=3, limit=10)["sentence"]) == list(shuffled[:10])
    assert list(load_split(SST2, "validation", tmp_path, limit=10)["sentence"]) == list(whole[:10])


GOOD = {"sentence": "good", "label": 1}
BROKEN = {
    "unknown label": (
        {"sentence": "x", "label": "great"},
        r"row 2: unknown label 'great'; sst2 has 0 negative, 1 pos",
    ),
    "label out of range": ({"sentence": "x", "label": 2}, r"row 2: unknown label 2"),
    "float label": ({"sentence": "x", "label": 0.5}, r"row 2: unknown label 0\.5"),
    "boolean label": ({"sentence": "x", "label": True}, r"row 2: unknown label True"),
    "unlabelled": ({"sentence": "x", "label": -1}, r"row 2: no label \(found -1\)"),
    "missing column": ({"text": "x", "label": 1}, r"row 2: expected the columns sentence, label; sentence missing"),
    "empty text": ({"sentence": "  ", "label": 1}, r"row 2: sentence: the text is empty"),
    "text is a number": ({"sentence": 5, "label": 1}, r"row 2: sentence: expected text, found 5"),
    "not an object": ("[1, 2]", r"row 2: expected a JSON object"),
    "broken JSON": ('{"sentence": "x", ', r"row 2: expected one JSON object per line"),
    "blank line": ("", r"row 2: expected one JSON object per line"),
    "deep JSON": ("[" * 100_000, r"row 2: expected one JSON object per line"),
}


@pytest.mark.parametrize(("row", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_row_is_one_line_with_file_and_row(tmp_path, row, message):
    write_split(tmp_path, [GOOD, row, GOOD])
    with pytest.raises(DataError, match=message) as caught:
        load_split(SST2, "validation", tmp_path)
    assert "validation.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("label", "ok"), [(0, True), (5.0, True), (5.1, False), (-1.0, False), ("three", False)])
def test_stsb_scores_lie_between_0_and_5(tmp_path, label, ok):
    write_split(tmp_path, [{"sentence1": "a", "sentence2": "b", "label": label}], task="stsb")
    if ok:
        value = load_split(get_task("stsb"), "validation", tmp_path)["label"][0]
        assert isinstance(value, float)
        assert value == label
    else:
        with pytest.raises(DataError, match="row 1"):
            load_split(get_task("stsb"), "validation", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": {"text": ["Paris"], "answer_start": [3]}}, r"answer 'Paris' is not at offset 3 of the context"),
        ({"answers": {"text": ["Paris"], "answer_start": [-6]}}, r"not at offset -6"),
        ({"answers": {"text": [], "answer_start": []}}, r"no answer"),
        ({"answers": {"text": ["Paris"], "answer_start": []}}, r"of equal length"),
        ({"answers": ["Paris"]}, r"expected \{text"),
        ({"question": ""}, r"question: the text is empty"),
    ],
)
def test_broken_question(tmp_path, changes, message):
    write_split(tmp_path, [question(), question(**changes)], task="squad")
    with pytest.raises(DataError, match=rf"row 2: .*{message}"):
        load_split(SQUAD, "validation", tmp_path)


def test_empty_split(tmp_path):
    write_split(tmp_path, [])
    with pytest.raises(DataError, match="the split is empty"):
        load_split(SST2, "validation", tmp_path)


def test_truncated_and_fake_gzip(tmp_path):
    rows = [{"sentence": f"text {i * 7919}", "label": 1} for i in range(2000)]
    path = write_split(tmp_path, rows, suffix=".jsonl.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="unreadable after row"):
        load_split(SST2, "validation", tmp_path)
    path.write_bytes(b'{"sentence": "x", "label": 1}\n')
    with pytest.raises(DataError, match=r"unreadable after row 0.*gzip"):
        load_split(SST2, "validation", tmp_path)


def test_wrong_encoding(tmp_path):
    path = write_split(tmp_path, [GOOD])
    path.write_bytes('{"sentence": "caf\u00e9", "label": 1}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"expected UTF-8"):
        load_split(SST2, "validation", tmp_path)


def test_missing_folder_task_and_split_say_what_is_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: expected sst2/validation\.jsonl\.gz .*no such folder"):
        load_split(SST2, "validation", tmp_path / "nowhere")
    with pytest.raises(DataError, match="found no folder 'sst2'"):
        load_split(SST2, "validation", tmp_path)
    write_split(tmp_path, [GOOD])
    with pytest.raises(DataError, match=r"expected sst2/train\.jsonl\.gz .*found validation\.jsonl"):
        load_split(SST2, "train", tmp_path)


def test_unreachable_hub_asks_for_data_dir(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"split 'validation' of nyu-mll/glue .*pass --data-dir"):
        load_split(SST2, "validation", None)


def test_demo_is_embedded_and_a_folder_of_that_name_wins(tmp_path):
    demo = get_task("demo")
    assert len(load_split(demo, "validation", None)) == 800
    assert len(load_split(demo, "validation", tmp_path)) == 800
    write_split(tmp_path, [GOOD], task="demo")
    assert load_split(demo, "validation", tmp_path).to_list() == [GOOD]
    with pytest.raises(DataError, match="train and validation"):
        load_split(demo, "test", None)


@pytest.mark.realdata
@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("demo", "squad_v2")])
def test_real_validation_splits_pass_the_checks(real_data, name):
    rows = {"sst2": 872, "cola": 1043, "mnli": 9815, "mrpc": 408, "stsb": 1500, "qnli": 5463, "qqp": 1000, "rte": 277}
    task = get_task(name)
    loaded = load_split(task, task.validation_splits[""], real_data)
    assert len(loaded) == rows.get(name, 10570)
    assert set(loaded.column_names) == set(task.columns)


def test_a_row_is_known_by_its_texts_and_its_label():
    one = {"sentence": "é good", "label": 1}
    assert row_sha256(SST2, one) == row_sha256(SST2, {"label": 1, "sentence": "é good"}) != ""
    assert len({row_sha256(SST2, row) for row in (one, one | {"label": 0}, one | {"sentence": "e good"})}) == 3
    assert row_sha256(SQUAD, question()) != row_sha256(SQUAD, question(context=CONTEXT + " "))
