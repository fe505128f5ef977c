# SPDX-License-Identifier: Apache-2.0
"""Texts from every kind of file, and rows without text."""

import gzip
import json
from pathlib import Path

import pytest

from sparse_deploy.data.unlabelled import read_texts
from sparse_deploy.errors import ConfigError, DataError

BODIES = ["hello, world\nsecond line", "NA", "null", "caf\u00e9 \u4e2d"]


def csv_text(separator: str) -> str:
    quoted = [f'{number}{separator}"{body}"' for number, body in enumerate(BODIES)]
    return "\n".join([f"id{separator}body", *quoted]) + "\n"


def write(folder: Path, name: str) -> Path:
    """The four bodies in a file of the format that the name says."""
    path = folder / name
    if name.endswith(".parquet"):
        import datasets

        datasets.Dataset.from_dict({"id": [0, 1, 2, 3], "body": BODIES}).to_parquet(str(path))
        return path
    lines = "".join(json.dumps({"id": number, "body": body}) + "\n" for number, body in enumerate(BODIES))
    text = {"csv": csv_text(","), "tsv": csv_text("\t"), "jsonl": lines}[name.split(".")[1]].encode()
    if name.endswith(".gz"):
        text = gzip.compress(text)
    if name.endswith(".zst"):
        import zstandard

        text = zstandard.compress(text)
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.csv.zst", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.jsonl.zst", "t.parquet"]
)
def test_every_format_gives_the_same_texts(tmp_path, name):
    found = read_texts(str(write(tmp_path, name)), ("body",))
    assert found.rows == [(body,) for body in BODIES]
    assert found.seen == 4


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfbody,id\nfirst,1\n")
    assert read_texts(str(tmp_path / "t.csv"), ("body",)).rows == [("first",)]


def test_lines_of_a_text_file_and_a_saved_folder_are_texts(tmp_path):
    import datasets

    (tmp_path / "t.txt").write_text("one\ntwo\n", encoding="utf-8")
    datasets.Dataset.from_dict({"body": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    assert read_texts(str(tmp_path / "t.txt")).rows == read_texts(str(tmp_path / "saved")).rows == [("one",), ("two",)]


def test_a_sample_is_the_same_for_a_seed_and_reaches_the_whole_file(tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"row {number}\n" for number in range(1000)), encoding="utf-8")
    drawn = [read_texts(str(tmp_path / "t.txt"), limit=50, seed=seed).rows for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 50
    assert max(int(text.split()[1]) for (text,) in drawn[0]) > 800


def test_bad_rows_are_refused_by_number_or_counted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'body,id\nfine,1\n ,2\ncaf\xe9,3\n"two, fields",4\nthree,5,6\nlast,7\n')
    with pytest.raises(DataError, match=r"line 6, saw 3"):
        read_texts(str(path), ("body",))
    found = read_texts(str(path), ("body",), policy="skip")
    assert found.rows == [("fine",), ("two, fields",), ("last",)]
    assert found.problems.counts == {"empty text": 1, "encoding": 1, "other number of fields": 1}
    assert any("empty text (row 2)" in line for line in found.problems.summary())


def test_broken_json_is_named_by_its_row(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "one"}\n{"body": \n{"body": "three"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2.*broken JSON"):
        read_texts(str(path), ("body",))
    assert read_texts(str(path), ("body",), policy="skip").rows == [("one",), ("three",)]


def test_a_column_must_exist_and_be_unambiguous(tmp_path):
    path = write(tmp_path, "t.csv")
    with pytest.raises(ConfigError, match=r"no column 'text'; it has id, body"):
        read_texts(str(path), ("text",))
    with pytest.raises(ConfigError, match="several: id, body"):
        read_texts(str(path))


def test_what_is_no_data_is_refused_with_the_known_formats(tmp_path):
    (tmp_path / "t.doc").write_text("text", encoding="utf-8")
    for source in (str(tmp_path / "t.doc"), str(tmp_path / "missing.csv")):
        with pytest.raises(ConfigError, match=r"\.csv, \.tsv, \.jsonl"):
            read_texts(source)
