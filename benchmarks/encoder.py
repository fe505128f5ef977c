# SPDX-License-Identifier: Apache-2.0
"""Whole encoders: the sparse model against every dense runtime on this machine, interleaved in one run.

python benchmarks/encoder.py --cells all --record      # into benchmarks/results, for RESULTS.md
python benchmarks/encoder.py --cells 'base-*-b1-s128' --rounds 6
python benchmarks/encoder.py --sweep sequence --plot sequence.svg
SPARSE_DEPLOY_ISA=avx2 python benchmarks/encoder.py    # this instruction set against its dense kernel
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.bars import CELLS, cell_bars
from harness.cells import Cell, select_cells
from harness.console import show_progress
from harness.measure import Bench, measure_cell, measure_scaling, sweep
from harness.models import model_folder
from harness.profile import measure_profile, profile_text
from harness.records import is_forced, store_record
from harness.report import cell_line, context
from harness.rounds import Plan
from harness.serving import measure_serving
from harness.sessions import OURS, OURS_OPENVINO, OWN_DENSE, RIVALS
from harness.sparse_model import ensure_sparse_model

from sparse_deploy.errors import SparseDeployError
from sparse_deploy.machine import describe_machine
from sparse_deploy.measurement.machine_state import Probe

CACHE = Path(__file__).resolve().parents[1] / "runs" / "encoder-models"
RESULTS = Path(__file__).resolve().parent / "results"
SWEPT_CELL = "base-u70-b1-s128"
# Multiples of 16 and their neighbours: padding of lanes or tiles shows as a step between the two.
SEQUENCES = (16, 17, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256, 257, 384, 512)
BATCHES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32)
SWEPT_RIVALS = ("openvino_int8", "ort_dynamic_int8")
SWEEP_ROUNDS, SWEEP_SECONDS, SWEEP_PATIENCE = 5, 0.2, 10.0
SERVING_REPEATS = 3
_verbose = False
SCALED_RIVALS = ("openvino_int8",)


def main() -> None:
    """Entry point."""
    global _verbose
    options = _parse()
    _verbose = options.verbose
    try:
        for record in _records(options):
            record = {**record, **context(max(options.threads))}
            print(json.dumps(record) if options.json else _text(record), flush=True)
            if options.record:
                store_record(RESULTS, record)
            if options.plot:
                _plot(record, options.plot)
    except (SparseDeployError, RuntimeError, OSError) as error:
        _progress("")
        raise SystemExit(f"encoder.py: {' '.join(str(error).split())}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        _progress("")


def _records(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    probe = Probe()
    if probe.reason:
        print(f"encoder.py: no near/far labels: {probe.reason}", file=sys.stderr)
    for cell in options.cells:
        bench = Bench(max(options.threads), options.rivals, options.plan, probe, _progress, options.bars)
        folder = model_folder(options.models, cell.model, cell.pattern, _progress)
        if OURS in options.rivals:
            ensure_sparse_model(folder, _progress)
        if options.serving:
            yield measure_serving(cell, folder, max(options.threads), SERVING_REPEATS, _progress)
        elif options.profile:
            yield measure_profile(cell, folder, max(options.threads), options.rivals, _progress)
        elif options.sweep:
            yield sweep(bench, _swept(cell, options.sweep), folder, options.sweep)
        elif len(options.threads) > 1:
            yield measure_scaling(bench, cell, folder, options.threads)
        else:
            yield measure_cell(bench, cell, folder)


def _rivals(options: argparse.Namespace, *, forced: bool) -> list[str]:
    """The dense baselines to measure. With a forced set, the only baseline is this project's dense layout."""
    globs = options.rivals.split(",")
    if globs == ["*"]:
        if forced:
            return [OWN_DENSE]
        return list(SWEPT_RIVALS if options.sweep else SCALED_RIVALS if len(options.threads) > 1 else RIVALS)
    return [name for name in (*RIVALS, OWN_DENSE) if any(fnmatchcase(name, glob) for glob in globs)]


def _plot(record: dict[str, Any], path: Path) -> None:
    from harness.plots import plot_sweep

    plot_sweep(record, path)


def _swept(cell: Cell, over: str) -> list[Cell]:
    if over == "sequence":
        return [Cell(cell.model, cell.pattern, cell.batch, sequence) for sequence in SEQUENCES]
    return [Cell(cell.model, cell.pattern, batch, cell.sequence) for batch in BATCHES]


def _text(record: dict[str, Any]) -> str:
    if record["kind"] == "cell":
        return cell_line(record)
    if record["kind"] == "profile":
        return profile_text(record)
    return json.dumps({key: value for key, value in record.items() if key not in ("machine", "versions")}, indent=1)


def _progress(message: str) -> None:
    if _verbose and message:
        print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
    else:
        show_progress(message)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="CELL",
        help=f"all, globs, or MODEL-PATTERN-bBATCH-sSEQUENCE; known: {', '.join(CELLS)}",
    )
    parser.add_argument("--rivals", default="*", help="only these dense baselines (globs, separated by commas)")
    parser.add_argument("--rivals-only", action="store_true", help="do not measure the sparse model")
    parser.add_argument("--threads", default=str(min(2, describe_machine().usable_cpus)), help="2, or 1,2 for scaling")
    parser.add_argument("--rounds", type=int, help=f"rounds to compare; {Plan.rounds}, in a sweep {SWEEP_ROUNDS}")
    parser.add_argument(
        "--seconds", type=float, help=f"seconds per block; {Plan.seconds:g}, in a sweep {SWEEP_SECONDS:g}"
    )
    parser.add_argument("--sweep", choices=("sequence", "batch"), help="measure the time against this dimension")
    parser.add_argument(
        "--profile", action="store_true", help="time per operator and phase, of the sparse model and ONNX Runtime"
    )
    parser.add_argument("--serving", action="store_true", help="session creation, peak memory and sizes instead")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a sweep as .svg or .png")
    parser.add_argument("--models", type=Path, default=CACHE, help="folder of the built models")
    parser.add_argument("--verbose", action="store_true", help="write each step as a line, also without a terminal")
    parser.add_argument("--json", action="store_true", help="one JSON object per cell")
    parser.add_argument("--record", action="store_true", help="store the records in benchmarks/results")
    options = parser.parse_args()
    try:
        options.threads = tuple(int(count) for count in options.threads.split(","))
        whole = not (options.sweep or options.profile) and len(options.threads) == 1
        options.cells = select_cells(options.cells or (["all"] if whole else [SWEPT_CELL]))
    except ValueError as error:
        parser.error(str(error))
    usual = Plan(SWEEP_ROUNDS, seconds=SWEEP_SECONDS, patience=SWEEP_PATIENCE) if options.sweep else Plan()
    rounds, seconds = options.rounds or usual.rounds, options.seconds or usual.seconds
    if min(options.threads) < 1 or rounds < 1 or seconds <= 0:
        parser.error("--threads, --rounds and --seconds: expected numbers above 0")
    if options.plot and not (options.sweep and options.plot.suffix in (".svg", ".png")):
        parser.error("--plot: expected --sweep, and a file named .svg or .png")
    here = context(max(options.threads))
    forced = is_forced(here)
    options.bars = {} if forced else cell_bars(here["instruction_set"]["name"])
    ours = (OURS, OURS_OPENVINO) if whole else (OURS,)
    options.rivals = (*(() if options.rivals_only else ours), *_rivals(options, forced=forced))
    first = min(usual.first_rounds, rounds)
    options.plan = replace(usual, rounds=rounds, first_rounds=first, seconds=seconds)
    return options


if __name__ == "__main__":
    main()
