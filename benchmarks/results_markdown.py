# SPDX-License-Identifier: Apache-2.0
"""Write RESULTS.md, and the plots in it, from the records in results/SECTION/*.json and the hand-written notes.md.

python benchmarks/results_markdown.py
python benchmarks/results_markdown.py --check     # exit 1 when RESULTS.md is not what the records say
"""

import argparse
import sys
from pathlib import Path

from harness.page import render_page
from harness.plots import plot_sweep
from harness.records import read_records

FOLDER = Path(__file__).resolve().parent
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
    if options.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            raise SystemExit("results_markdown.py: RESULTS.md is not what the records say; run it without --check")
        return
    for name, records in sections.items():
        for record in records:
            if record["kind"] == "sweep":
                plot_sweep(record, RESULTS / name / f"sweep-{record['sweep']}.svg")
    PAGE.write_text(page, encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
