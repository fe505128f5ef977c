# SPDX-License-Identifier: Apache-2.0
"""Single kernels: each sparse kernel against this project's dense INT8 kernel, one thread, interleaved, same weights.

python benchmarks/kernels.py --record      # into benchmarks/results, for RESULTS.md
python benchmarks/kernels.py --patterns u70 --shapes 3072x768 --tokens 128,384
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.bars import KERNEL_BARS
from harness.console import show_progress
from harness.micro import MicroCell, MicroPlan, measure_shape
from harness.records import is_forced, store_record
from harness.report import context

from sparse_deploy.errors import SparseDeployError
from sparse_deploy.measurement.machine_state import Probe

# Output by input channels of the weights of bert-base and bert-large, including fused query, key and value.
SHAPES = ((768, 768), (2304, 768), (3072, 768), (768, 3072), (1024, 1024), (4096, 1024), (1024, 4096))
TOKENS = (1, 16, 128, 384)
RESULTS = Path(__file__).resolve().parent / "results"
PATTERNS = tuple(KERNEL_BARS["avx2"])


def main() -> None:
    """Entry point."""
    options = _parse()
    # Pin to one CPU: a thread that moves loses its caches.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        if not options.json:
            print(_HEADER)
        for record in _records(options):
            print(json.dumps(record) if options.json else _text(record), flush=True)
            if options.record:
                store_record(RESULTS, record)
    except (SparseDeployError, ValueError, OSError) as error:
        raise SystemExit(f"kernels.py: {' '.join(str(error).split())}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        show_progress("")


def _records(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    shared = context(1)
    # The peak of one CPU with its best instruction set, to judge the dense kernel.
    peak = None if is_forced(shared) else Probe().peak_gmacs()
    for pattern in options.patterns:
        for n, k in options.shapes:
            show_progress(f"{pattern} {n}x{k}")
            cells = [MicroCell(pattern, n, k, tokens) for tokens in options.tokens]
            for record in measure_shape(cells, options.plan, peak):
                yield {**record, **shared}


_HEADER = (
    f"{'cell':<24}{'operator':<10}{'us':>9}{'GMAC/s':>9}{'dense us':>10}{'GMAC/s':>8}{'of peak':>9}{'ratio':>7}  "
    f"{'interval':<14}{'kernel':<14}{'fill':>5}{'bytes':>7}"
)


def _text(record: dict[str, Any]) -> str:
    lines = []
    for operator in ("linear", "matmul"):
        found = record[operator]
        low, high = found["interval"]
        peak = f"{found['dense_of_peak']:.0%}" if found["dense_of_peak"] else ""
        line = (
            f"{record['cell']:<24}{operator:<10}{found['us']:>9.1f}{found['gmacs']:>9.0f}{found['dense_us']:>10.1f}"
            f"{found['dense_gmacs']:>8.0f}{peak:>9}{found['ratio']:>7.2f}  [{low:.2f}, {high:.2f}]"
            f"  {record['kernel']:<14}{record['fill']:>5.2f}{record['packed_ratio']:>7.2f}"
        )
        if record["bar"] is not None:
            line += f"  bar {record['bar']}: {'reached' if found['reached'] else 'missed'}"
        lines.append(line)
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patterns", default=",".join(PATTERNS), help="such as u70,12,b80_4x1,b80_1x4,dense")
    parser.add_argument("--shapes", default=",".join(f"{n}x{k}" for n, k in SHAPES), help="OUTxIN,OUTxIN …")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)), help="rows of the activations")
    parser.add_argument("--rounds", type=int, default=MicroPlan.rounds, help="pairs of blocks per cell")
    parser.add_argument("--milliseconds", type=float, default=MicroPlan.milliseconds, help="length of a block")
    parser.add_argument("--json", action="store_true", help="one JSON object per cell")
    parser.add_argument("--record", action="store_true", help="store the records in benchmarks/results")
    options = parser.parse_args()
    try:
        options.patterns = _words(options.patterns)
        options.shapes = [_shape(word) for word in _words(options.shapes)]
        options.tokens = [_positive(word) for word in _words(options.tokens)]
        options.plan = MicroPlan(_positive(str(options.rounds)), options.milliseconds)
    except ValueError as error:
        parser.error(str(error))
    return options


def _words(text: str) -> Sequence[str]:
    return [word for word in text.split(",") if word]


def _shape(text: str) -> tuple[int, int]:
    n, _, k = text.partition("x")
    return _positive(n), _positive(k)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"expected a number above 0 (a shape is OUTxIN such as 3072x768), found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
