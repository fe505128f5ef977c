# SPDX-License-Identifier: Apache-2.0
"""Rows of own data: CSV, TSV, JSON lines, Parquet, plain text, a folder of ``datasets``, or the hub.

All formats except JSON lines are read by ``datasets``, streamed, so that no file is copied into its cache. JSON lines
are read here: the reader of ``datasets`` casts a block to one type and does not report the invalid line.
"""

import csv
import json
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sparse_deploy.data.problems import Policy, Problems, RowProblem
from sparse_deploy.data.row_checks import MARK_UNDECODABLE, Row
from sparse_deploy.errors import ConfigError, DataError, one_line

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
    ".txt": "text",
}  # fmt: skip
_BATCH = 1000
_SKIPPED_LINE = re.compile(r"Skipping line (\d+): (.*)")


@dataclass(frozen=True)
class Table:
    """One split of a data set that can be read row by row.

    Attributes:
        source: file, folder or hub name (``OWNER/NAME``).
        split: split of a folder or of a data set of the hub; a file has only one.
        config: configuration on the hub.
    """

    source: str
    split: str = "train"
    config: str | None = None

    @property
    def file(self) -> Path | None:
        """The file; None for a folder or a data set of the hub."""
        path = Path(self.source).expanduser()
        return path if path.is_file() else None

    @property
    def name(self) -> str:
        """The name of the table for messages."""
        return self.source if self.file else f"{self.source} ({self.split})"

    def rows(self, policy: Policy = "error", problems: Problems | None = None) -> Iterator[tuple[int, Row]]:
        """Every row with its number, from 1; the header of a CSV file is not a row.

        Values of CSV and TSV are unchanged texts. Bytes that are not UTF-8 become U+FFFD.

        Args:
            policy: treatment of lines that are not rows.
            problems: their counter; None means a new one.

        Raises:
            ConfigError: a missing file, or an unknown format.
            DataError: the data is unreadable.
        """
        problems = problems or Problems(self.name, policy)
        if self.file is None:
            return enumerate(_from_datasets(self), start=1)
        match _format(self.file):
            case "csv":
                return _csv_rows(self.file, problems)
            case "jsonl":
                return _json_rows(self.file, problems)
            case "parquet":
                return enumerate(_batches("parquet", self.file), start=1)
            case _:
                return enumerate(_batches("text", self.file, encoding_errors=MARK_UNDECODABLE), start=1)

    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the first row.

        Raises:
            DataError: there are no rows.
        """
        for _, row in self.rows("skip"):
            return tuple(row)
        raise DataError(f"{self.name}: expected at least one row, found none")


def is_data_file(path: Path) -> bool:
    """Whether the name of a file is that of a table."""
    name = path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSIONS else path.name
    return Path(name).suffix.lower() in _FORMATS


def split_names(source: str, config: str | None = None) -> tuple[str, ...]:
    """Names of the splits of a folder or a data set of the hub.

    Raises:
        ConfigError: not a file or folder, and not available on the hub.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return ("train",)
    if (path / "dataset_dict.json").is_file():
        return tuple(json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
    if (path / "dataset_info.json").is_file():
        return ("train",)
    import datasets

    try:
        return tuple(datasets.get_dataset_split_names(source, config))
    except Exception as error:  # datasets raises its own classes and those of its dependencies
        raise _not_there(source, error) from error


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    found = _FORMATS.get(suffixes[-1]) if suffixes else None
    if found is None:
        known = ", ".join(_FORMATS)
        raise ConfigError(f"{path}: expected a file whose name ends in {known}, alone or followed by .gz or .zst")
    return found


def _open(path: Path, **options: Any) -> IO[str]:
    import fsspec

    compression = _COMPRESSIONS.get(path.suffix.lower())
    # fsspec passes these to the decompressor's file object; "utf-8-sig" also reads files without a byte order mark.
    opened: IO[str] = fsspec.open(
        str(path), "rt", compression=compression, encoding="utf-8-sig", errors=MARK_UNDECODABLE, **options
    ).open()
    return opened


def _csv_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Row]]:
    import datasets

    separator = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","
    try:
        with _open(path, newline="") as stream:
            header = next(csv.reader(stream, delimiter=separator), None)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise _unreadable(path, 0, error) from error
    if not header or len(set(header)) != len(header) or not all(header):
        raise DataError(f"{path}: expected a header line with a different name for each column, found {header}")
    options = {
        "sep": separator,
        "encoding": "utf-8-sig",
        "encoding_errors": MARK_UNDECODABLE,
        "keep_default_na": False,  # keeps the texts "NA", "None" and "null", instead of missing values
        "on_bad_lines": "error" if problems.policy == "error" else "warn",
        "features": datasets.Features({name: datasets.Value("string") for name in header}),
    }
    rows = _batches("csv", path, **options)
    number = 0
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            row = next(rows, None)
        for line, what in _SKIPPED_LINE.findall("\n".join(str(warning.message) for warning in caught)):
            problems.add(int(line) - 1, RowProblem("other number of fields", what))
        if row is None:
            return
        number += 1
        yield number, row


def _json_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with _open(path) as lines:
            first = lines.read(1)
            if first == "[":
                yield from enumerate(json.loads(first + lines.read()), start=1)
                return
            for line in _with_first(first, lines):
                number += 1
                try:
                    yield number, json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    problems.add(
                        number,
                        RowProblem("broken JSON", f"expected one JSON object per line, found broken JSON ({error})"),
                    )
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, number, error) from error


def _with_first(first: str, lines: IO[str]) -> Iterator[str]:
    """The lines of a stream after one character was read."""
    if first:
        yield first + lines.readline()
    yield from lines


def _batches(reader: str, path: Path, **options: Any) -> Iterator[Row]:
    """Rows of a file by one of the readers of ``datasets``."""
    import datasets

    number = 0
    # It also prints the errors that it raises.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    try:
        streamed = datasets.load_dataset(
            reader, data_files={"train": str(path.resolve())}, split="train", streaming=True, **options
        )
        for batch in streamed.iter(batch_size=_BATCH):
            columns = list(batch)
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield dict(zip(columns, values, strict=True))
    except Exception as error:  # pandas, pyarrow and datasets raise their own classes
        if isinstance(error, DataError | MemoryError):
            raise
        raise _unreadable(path, number, error) from error


def _from_datasets(table: Table) -> Iterator[Row]:
    import datasets

    path = Path(table.source).expanduser()
    saved = (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()
    try:
        if saved:
            found = datasets.load_from_disk(str(path))
            found = found[table.split] if isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(table.source, table.config, split=table.split, streaming=True)
        # Class labels are converted to names, because the ids of a data set and a model may differ.
        named = {name: feature for name, feature in (found.features or {}).items()
                 if isinstance(feature, datasets.ClassLabel)}  # fmt: skip
        for batch in found.iter(batch_size=_BATCH):
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                for name, feature in named.items():
                    if isinstance(row[name], int) and row[name] >= 0:
                        row[name] = feature.int2str(row[name])
                yield row
    except DataError:
        raise
    except Exception as error:  # see split_names
        raise _not_there(f"{table.source} ({table.split})", error) from error


def _not_there(source: str, error: Exception) -> ConfigError:
    reason = one_line(error)
    return ConfigError(
        f"{source}: neither a local file or folder nor a data set on the hub: {reason}; name a .csv, .tsv, "
        f".jsonl, .parquet or .txt file, a folder of datasets, or OWNER/NAME"
    )


def _unreadable(path: Path, number: int, error: Exception) -> DataError:
    cause = error.__cause__ or error.__context__ or error
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    return DataError(f"{path}: unreadable after row {number} ({reason}); repair the file, or copy it again")
