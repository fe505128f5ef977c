# SPDX-License-Identifier: Apache-2.0
"""Measures the reliability of server and artifacts: load, overload, faulty clients, signals, damaged files.

python tests/check_reliability.py                          # all checks, about 30 minutes on two idle cores
python tests/check_reliability.py --only overload sigterm  # some of them
python tests/check_reliability.py --write                  # writes the table of the records into docs/reliability.md

The server runs bert-base at 70 % zeros (random weights: speed depends on the pattern only) with the sparse operators,
on texts of the lengths of SST-2's validation split where ../shared/data is, else on the embedded text. Clients run on
the same cores as the server. Each check writes its record in ``tests/reliability/records``.
"""

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import reliability  # noqa: F401 - adds the benchmarks to the import path
from harness.console import show_progress
from harness.generated import with_tables
from harness.served import base_deployment
from reliability.load import write_bodies
from reliability.server_checks import CHECKS, Setting

from sparse_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "tests" / "reliability" / "records"
PAGE = ROOT / "docs" / "reliability.md"


def main() -> None:
    """Run checks, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--seconds", type=float, default=180, help="duration of the sustained load")
    parser.add_argument("--cache", type=Path, default=Path("runs/encoder-models"), help="folder of built models")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the table of the records into docs/reliability.md, without running checks",
    )
    parser.add_argument("--json", action="store_true", help="print the records, one per line")
    options = parser.parse_args()
    if not options.write:
        RECORDS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            run_checks(options.only, _setting(options, Path(scratch)), as_json=options.json)
    page = with_tables(PAGE.read_text(encoding="utf-8"), {"reliability": table()}, "check_reliability.py")
    PAGE.write_text(page, encoding="utf-8")


def run_checks(names: list[str], setting: Setting, *, as_json: bool) -> None:
    """Run checks and store their records."""
    machine = describe_machine()
    for name in names:
        show_progress(name)
        begin = time.monotonic()
        outcome = CHECKS[name](setting)
        record = {
            "check": name,
            "what": (CHECKS[name].__doc__ or "").strip(),
            **asdict(outcome),
            "took_s": round(time.monotonic() - begin),
            "machine": f"{machine.usable_cpus} cores of {machine.cpu_model}",
        }
        show_progress("")
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(record) if as_json else f"{_verdict(outcome.passed):8} {name}: {outcome.seen}", flush=True)


def table() -> str:
    """The records as Markdown."""
    lines = ["| check | description | requirement | result | |", "|---|---|---|---|---|"]
    for name in CHECKS:
        path = RECORDS / f"{name}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            cells = (f"`{name}`", record["what"], record["required"], record["seen"], _verdict(record["passed"]))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _setting(options: argparse.Namespace, scratch: Path) -> Setting:
    sentences = _sentences()
    bodies = write_bodies(sentences, scratch / "bodies")
    deployment = base_deployment(options.cache, show_progress)
    return Setting(deployment, bodies, sentences, scratch, options.seconds, options.cache)


def _sentences() -> tuple[str, ...]:
    real = ROOT.parent / "shared" / "data" / "sst2" / "validation.jsonl.gz"
    if real.is_file():
        with gzip.open(real, "rt", encoding="utf-8") as lines:
            return tuple(json.loads(line)["sentence"] for line in lines)
    from sparse_deploy.data.demo_text import demo_rows

    return tuple(row["sentence"] for row in demo_rows("validation"))


def _verdict(passed: bool | None) -> str:
    return {True: "ok", False: "**missed**", None: ""}[passed]


if __name__ == "__main__":
    main()
