# SPDX-License-Identifier: Apache-2.0
"""Records of measurements on disk: a folder per section of RESULTS.md, one JSON object per line, a file per kind.

A section is a CPU and the instruction set that the kernels used on it, so a run on one machine never changes the
figures of another.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_deploy.publishing import write_bytes_atomically

Record = Mapping[str, Any]
_FILES = {"cell": "encoder.json", "kernel": "kernels.json"}


def section(record: Record) -> str:
    """The section folder of a record: CPU model, its best set and, if another set was forced, its name."""
    used = record["instruction_set"]
    forced = f" forced {used['name']}" if is_forced(record) else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{record['machine']['cpu_model']} {used['best']}{forced}".lower()).strip("-")


def is_forced(record: Record) -> bool:
    """Whether ``SPARSE_DEPLOY_ISA`` forced a set other than the CPU's best."""
    used = record["instruction_set"]
    return bool(used["name"] != used["best"])


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a section's folder; only the latest record of each cell.

    Raises:
        ValueError: a line is not a record.
    """
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        for record in _read(path):
            key = _key(record)
            if key not in latest or record["measured_at"] >= latest[key]["measured_at"]:
                latest[key] = record
    return list(latest.values())


def store_record(results: Path, record: Record) -> Path:
    """Write a record into its section and replace the earlier record of the same cell.

    Args:
        results: folder of all sections.
        record: the record, including its context.

    Returns:
        The written file.

    Raises:
        ValueError: a line of the file is not a record.
    """
    path = results / section(record) / _file_name(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [old for old in _read(path) if _key(old) != _key(record)] if path.is_file() else []
    write_bytes_atomically(path, "".join(f"{json.dumps(one)}\n" for one in (*kept, record)).encode())
    return path


def _file_name(record: Record) -> str:
    kind = str(record["kind"])
    return f"sweep-{record['sweep']}.json" if kind == "sweep" else _FILES.get(kind, f"{kind}.json")


def _key(record: Record) -> tuple[Any, ...]:
    return record["kind"], record.get("cell"), record.get("sweep"), record.get("model")


def _read(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            _key(record), section(record), record["measured_at"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a record of a benchmark ({error})") from error
        records.append(record)
    return records
