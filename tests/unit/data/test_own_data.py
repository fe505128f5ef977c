# SPDX-License-Identifier: Apache-2.0
"""Labelled data of the user's own: splits, policies, and the task from its columns."""

from collections import Counter

import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.infer_kind import infer_kind
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.tasks import Ranking, TaskKind, TextClassification
from sparse_deploy.errors import ConfigError, DataError

TEAMS = TextClassification("tickets", ("body",), ("billing", "shipping", "web"))


def tickets(folder, rows, name="tickets.csv"):
    path = folder / name
    path.write_text("body,team\n" + "".join(f'"{body}",{team}\n' for body, team in rows), encoding="utf-8")
    return DataSection(source=str(path), label_column="team")


def many(count=300):
    shares = ("billing",) * 6 + ("shipping",) * 3 + ("web",)
    return [(f"ticket {number}", shares[number % 10]) for number in range(count)]


def loaded(task, data, split):
    return load_split(task, split, None, data=data).to_list()


def test_a_seeded_split_is_the_same_each_time_even_over_the_labels_and_keeps_equal_texts_together(tmp_path):
    data = tickets(tmp_path, [*many(), *many()[:100]])  # 100 texts come twice
    train, validation = (loaded(TEAMS, data, split) for split in ("train", "validation"))
    assert len(train) + len(validation) == 400
    assert not {row["body"] for row in train} & {row["body"] for row in validation}
    assert Counter(row["label"] for row in validation) == pytest.approx({0: 24, 1: 12, 2: 4}, abs=2)
    assert loaded(TEAMS, data, "validation") == validation
    other = data.model_copy(update={"split_seed": 7})
    assert loaded(TEAMS, other, "validation") != validation


def test_documents_of_a_query_stay_together(tmp_path):
    path = tmp_path / "rank.csv"
    path.write_text(
        "query,document,label\n" + "".join(f"q{n // 5},d{n},{int(n % 5 == 0)}\n" for n in range(200)), encoding="utf-8"
    )
    data = DataSection(source=str(path))
    train, validation = (loaded(Ranking("rank"), data, split) for split in ("train", "validation"))
    assert len(validation) == 20
    assert not {row["query"] for row in train} & {row["query"] for row in validation}


def test_a_text_in_both_splits_is_refused_or_left_out_of_training(tmp_path):
    rows = many(50)
    tickets(tmp_path, [rows[3], ("new", "web")], "val.csv")
    data = tickets(tmp_path, rows).model_copy(update={"validation_source": str(tmp_path / "val.csv")})
    with pytest.raises(DataError, match=r"row 4: the same text is validation row 1"):
        loaded(TEAMS, data, "train")
    notes = []
    skipping = data.model_copy(update={"on_problem": "skip"})
    assert len(load_split(TEAMS, "train", None, data=skipping, note=notes.append)) == 49
    assert "1 row skipped, also a validation row (row 4)" in notes[0]
    assert len(loaded(TEAMS, data, "validation")) == 2


def test_bad_rows_are_refused_by_number_or_counted_by_kind(tmp_path):
    rows = [*many(50), ("", "web"), ("late", "wine"), ("later", ""), ("last", "wine")]
    data = tickets(tmp_path, rows)
    with pytest.raises(DataError, match=r"tickets\.csv, row 51: body: the text is empty.*data.on_problem: skip"):
        loaded(TEAMS, data, "train")
    notes = []
    data = data.model_copy(update={"on_problem": "skip"})
    load_split(TEAMS, "train", None, data=data, note=notes.append)
    assert any("2 rows skipped, unknown label (row 52, 54)" in note for note in notes)
    assert any("1 row skipped, no label (row 53)" in note for note in notes)


def test_the_policy_also_holds_for_public_data(tmp_path):
    from sparse_deploy.data.tasks import get_task

    (tmp_path / "qqp").mkdir()
    rows = '{"question1": "a", "question2": "", "label": 0}\n{"question1": "a", "question2": "b", "label": 1}\n'
    (tmp_path / "qqp" / "train.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1: question2: the text is empty.*on_problem"):
        load_split(get_task("qqp"), "train", tmp_path)
    found = load_split(get_task("qqp"), "train", tmp_path, data=DataSection(on_problem="skip"))
    assert found.to_list() == [{"question1": "a", "question2": "b", "label": 1}]


def test_a_label_column_that_is_not_there_names_those_that_are(tmp_path):
    data = tickets(tmp_path, many(20)).model_copy(update={"label_column": "topic"})
    with pytest.raises(ConfigError, match=r"no column 'topic' to score against; it has body, team"):
        loaded(TEAMS, data, "train")


def test_parquet_with_splits_in_a_folder(tmp_path):
    import datasets

    rows = [{"body": body, "team": team} for body, team in many(40)]
    parts = {"train": datasets.Dataset.from_list(rows[:30]), "validation": datasets.Dataset.from_list(rows[30:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = DataSection(source=str(tmp_path / "saved"), label_column="team")
    assert [len(loaded(TEAMS, data, split)) for split in ("train", "validation")] == [30, 10]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"text": "a", "label": "red"}', TaskKind.CLASSIFICATION),
        ('{"text": "a", "label": 3}', TaskKind.CLASSIFICATION),
        ('{"text": "a", "label": 3.5}', TaskKind.REGRESSION),
        ('{"text": "a", "label": ["x", "y"]}', TaskKind.MULTI_LABEL),
        ('{"tokens": ["a"], "label": ["O"]}', TaskKind.TOKEN_CLASSIFICATION),
        (
            '{"question": "a", "context": "b", "answers": {"text": [], "answer_start": []}}',
            TaskKind.QUESTION_ANSWERING,
        ),
    ],
)
def test_columns_say_the_task(tmp_path, line, kind):
    (tmp_path / "d.jsonl").write_text(line + "\n", encoding="utf-8")
    assert infer_kind(DataSection(source=str(tmp_path / "d.jsonl"))) is kind
