# SPDX-License-Identifier: Apache-2.0
"""Write RESULTS.md with its plots, and `sparse-deploy inspect`'s recorded speeds, from the records.

The records are results/SECTION/*.json; the page ends with the hand-written notes.md; the recorded speeds are written
to sparse_deploy/inspection/recorded_speed.json.

python benchmarks/results_markdown.py
python benchmarks/results_markdown.py --check     # exit 1 when a file is out of date
"""

import argparse
import sys
from pathlib import Path

from harness.page import render_page
from harness.plots import plot_encoders, plot_sweep
from harness.recorded_speed import recorded_speeds_text
from harness.records import is_forced, read_records

FOLDER = Path(__file__).resolve().parent
SPEEDS = FOLDER.parent / "sparse_deploy" / "inspection" / "recorded_speed.json"
RESULTS, PAGE, NOTES = FOLDER / "results", FOLDER / "RESULTS.md", FOLDER / "notes.md"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    try:
        sections = {path.name: read_records(path) for path in sorted(RESULTS.glob("*/"))}
    except ValueError as error:
        raise SystemExit(f"results_markdown.py: {error}") from error
    sections = {name: records for name, records in sections.items() if records}
    if not sections:
        raise SystemExit(f"results_markdown.py: no records in {RESULTS}/*/*.json; measure first, see README.md")
    page = render_page(sections, NOTES.read_text(encoding="utf-8") if NOTES.is_file() else "")
    speeds = recorded_speeds_text(record for records in sections.values() for record in records)
    written = {PAGE: page, SPEEDS: speeds}
    if options.check:
        for path, text in written.items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                raise SystemExit(f"results_markdown.py: {path.name} is out of date; run it without --check")
        return
    for name, records in sections.items():
        if cells := [record for record in records if record["kind"] == "cell" and not is_forced(record)]:
            plot_encoders(cells, RESULTS / name / "encoders.svg")
        for record in records:
            if record["kind"] == "sweep":
                plot_sweep(record, RESULTS / name / f"sweep-{record['sweep']}.svg")
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
