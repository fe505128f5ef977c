# SPDX-License-Identifier: Apache-2.0
"""Error rates of the gate, on samples drawn from populations whose true drop is known.

python studies/gate_error_rates.py            # a table; with --simulations 400, 17 minutes on two busy cores
python studies/gate_error_rates.py --json     # one object per population and drop
python studies/gate_error_rates.py --write    # writes the tables into docs/statistics.md
python studies/gate_error_rates.py --write --records FILE   # the tables from the output of --json

Accuracies are exact: the gate judges every outcome of a sample, weighted by its probability. The other metrics are
simulated, with fewer bootstrap resamples than the gate takes by default (--resamples).
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness_on_path  # noqa: F401 - the next imports need it
import numpy as np
from harness.console import show_progress
from harness.generated import with_tables
from populations import (
    Population,
    f1_of,
    lost_scores,
    matthews_of,
    noisy_scores,
    questions,
    two_labels,
)
from scipy import stats

from sparse_deploy.data.tasks import QuestionAnswering, Regression, TextClassification
from sparse_deploy.data.tasks.regression import CORRELATIONS
from sparse_deploy.gate.bootstrap import compare_metric
from sparse_deploy.gate.holm import holm
from sparse_deploy.gate.metric import Metric
from sparse_deploy.gate.score_test import drop_exceeds_margin, set_error_for

CONFIDENCE = 0.95
ALPHA = 1.0 - CONFIDENCE
DROPS = (0.0, 0.5, 1.0, 1.5, 2.0)  # in units of the margin
ENDS = (0.0, 1.0, 2.0)
Record = dict[str, Any]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
GATES = 5
LIKELY = 1e-9


@dataclass(frozen=True)
class Simulated:
    """A population to sample, the metric it is judged by, and the margin."""

    metric: str
    margin: float
    population: Population
    drops: tuple[float, ...] = DROPS
    clustered: bool = True

    @property
    def tested(self) -> Metric:
        """The gate's definition of the metric."""
        questions = self.margin >= 1.0  # of 100
        known = QuestionAnswering if questions else Regression if self.metric in CORRELATIONS else TextClassification
        return known.known_metrics[self.metric]


ACCURACIES = tuple(
    (rows, changed, 0.005 if rows > 5000 else 0.01)
    for rows in (277, 408, 872, 1500, 9815)
    for changed in (0.01, 0.02, 0.05)
)
SIMULATED = {
    "F1, 408 rows, 68 % positive, 5 % changed": Simulated("f1", 0.015, two_labels(408, 0.68, 0.13, 0.05, f1_of)),
    "F1, 1,500 rows, 10 % positive, 2 % changed": Simulated("f1", 0.03, two_labels(1500, 0.1, 0.05, 0.02, f1_of)),
    "Matthews, 1,043 rows, 69 % positive, 5 % changed": Simulated(
        "matthews", 0.03, two_labels(1043, 0.69, 0.16, 0.05, matthews_of)
    ),
    "Matthews, 1,500 rows, 5 % positive, 1 % changed": Simulated(
        "matthews", 0.02, two_labels(1500, 0.05, 0.03, 0.01, matthews_of)
    ),
    "Pearson, 500 rows, all changed a little": Simulated("pearson", 0.005, noisy_scores(500, 0.88, 0.15), ENDS),
    "Spearman, 500 rows, all changed a little": Simulated(
        "spearman", 0.005, noisy_scores(500, 0.88, 0.15, ranks=True), ENDS
    ),
    "Pearson, 1,500 rows, few answers lost": Simulated("pearson", 0.005, lost_scores(1500, 0.88), ENDS),
    "SQuAD F1, 300 paragraphs, 1,500 questions, 4 % changed together": Simulated("f1", 1.0, questions(300, 0.04, 0.3)),
    "the same, paragraphs ignored (for comparison; not what the gate does)": Simulated(
        "f1", 1.0, questions(300, 0.04, 0.3), (1.0,), clustered=False
    ),
}


def main() -> None:
    """Entry point."""
    options = _parse()
    if options.records:
        records = [json.loads(line) for line in options.records.read_text(encoding="utf-8").splitlines()]
    else:
        records = _simulated(options)
    tables = {"error rates": _table(records), "rows needed": _rows_table()}
    if options.write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables, "gate_error_rates.py"), encoding="utf-8")
    elif not options.json:
        print("\n\n".join(tables.values()))


def _simulated(options: argparse.Namespace) -> list[Record]:
    records = []
    try:
        for record in _records(options):
            records.append(record)
            if options.json:
                print(json.dumps(record), flush=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        show_progress("")
    return records


def _records(options: argparse.Namespace) -> Iterator[Record]:
    """Yield the records in the table's order, each as soon as all earlier ones are complete."""
    tasks: list[tuple[Callable[..., list[Record]], tuple[Any, ...]]] = [
        (_exact, (rows, changed, margin)) for rows, changed, margin in ACCURACIES if not options.only
    ]
    tasks += [
        (_simulate, (name, drop, options.simulations, options.resamples, options.seed))
        for name in SIMULATED
        if options.only in name
        for drop in SIMULATED[name].drops
    ]
    tasks += [(_several, (options.seed,))] if not options.only else []
    with ProcessPoolExecutor(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in tasks]
        for done, _ in enumerate(as_completed(futures), 1):
            show_progress(f"{done} of {len(futures)}")
            while futures and futures[0].done():
                yield from futures.pop(0).result()


def _exact(rows: int, changed: float, margin: float) -> list[Record]:
    """Exact rates of an accuracy: the probabilities of the passing and of the failing outcomes."""
    most = int(stats.binom.isf(LIKELY, rows, changed))
    counts = np.arange(most + 1)
    passing = _most_worse(rows, margin, most)
    # A fail is a pass of the exchanged counts at the negative margin, which limits the better rows.
    failing = _most_worse(rows, -margin, most)
    records = []
    for times in DROPS:
        drop = times * margin
        if drop > changed:
            continue
        split = (changed + drop) / (2 * changed)
        mass = stats.binom.pmf(counts, rows, changed)
        passes = float(mass @ stats.binom.cdf(passing, counts, split))
        fails = float(mass @ stats.binom.cdf(failing, counts, 1 - split))
        name = f"accuracy, {rows:,} rows, {changed:.0%} changed".replace("%", " %")
        records.append(_record(name, margin, times, passes, fails, 0))
    return records


def _most_worse(rows: int, margin: float, most: int) -> np.ndarray:
    """For each number of changed rows, the largest number of worse rows at which the gate passes."""
    error = set_error_for(CONFIDENCE)
    found, worse = [], -1
    for changed in range(most + 1):
        # One more changed row raises the limit by at most one.
        while (
            worse + 1 <= changed
            and drop_exceeds_margin(worse + 1, changed - worse - 1, rows, margin, set_error=error) <= ALPHA
        ):
            worse += 1
        while worse >= 0 and drop_exceeds_margin(worse, changed - worse, rows, margin, set_error=error) > ALPHA:
            worse -= 1
        found.append(worse)
    return np.array(found)


def _simulate(name: str, times: float, simulations: int, resamples: int, seed: int) -> list[Record]:
    case = SIMULATED[name]
    rng = np.random.default_rng([seed, list(SIMULATED).index(name), int(10 * times)])
    passes = fails = 0
    for number in range(simulations):
        sample = case.population(times * case.margin, rng)
        evidence = compare_metric(
            case.tested,
            sample.baseline,
            sample.cell,
            margin=case.margin,
            confidence=CONFIDENCE,
            resamples=resamples,
            seed=number,
            clusters=sample.clusters if case.clustered else None,
        )
        passes += evidence.p_pass <= ALPHA
        fails += evidence.p_fail <= ALPHA
    return [_record(name, case.margin, times, passes / simulations, fails / simulations, simulations)]


def _several(seed: int, simulations: int = 20_000, rows: int = 872, changed: float = 0.05) -> list[Record]:
    """Chance of any false verdict over gates on correlated cells: two cells share a changed row with chance 1/2."""
    margin, error = 0.01, set_error_for(CONFIDENCE)
    rng = np.random.default_rng([seed, 99])
    chances = [(changed + margin) / 2, (changed - margin) / 2, 1 - changed]
    known: dict[tuple[int, int], tuple[float, float]] = {}
    verdicts = {"none": np.zeros(2), "holm": np.zeros(2)}
    for _ in range(simulations):
        shared = rng.choice(3, size=rows, p=chances)
        own = rng.choice(3, size=(GATES, rows), p=chances)
        answers = np.where(rng.random((GATES, rows)) < 0.5, shared, own)
        p_values = []
        for gate in answers:
            worse, better = int(np.sum(gate == 0)), int(np.sum(gate == 1))
            if (worse, better) not in known:
                known[worse, better] = (
                    drop_exceeds_margin(worse, better, rows, margin, set_error=error),
                    drop_exceeds_margin(better, worse, rows, -margin, set_error=error),
                )
            p_values.append(known[worse, better])
        for side in (0, 1):
            raw = [p[side] for p in p_values]
            verdicts["none"][side] += min(raw) <= ALPHA
            verdicts["holm"][side] += min(holm(raw)) <= ALPHA
    return [
        _record(
            f"any of {GATES} accuracies, {rows} rows, {words}",
            margin,
            1.0,
            float(verdicts[how][0] / simulations),
            float(verdicts[how][1] / simulations),
            simulations,
        )
        for how, words in (("none", "not corrected"), ("holm", "Holm"))
    ]


def _record(name: str, margin: float, times: float, passes: float, fails: float, simulations: int) -> Record:
    return {
        "population": name,
        "margin": margin,
        "drop_in_margins": times,
        "pass": passes,
        "fail": fails,
        "simulations": simulations,
    }


def _table(records: list[Record]) -> str:
    drops = " | ".join(("drop 0", "half the margin", "**the margin**", "1.5 margins", "2 margins"))
    lines = [f"| population | margin | {drops} |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(record["population"] for record in records):
        mine = {record["drop_in_margins"]: record for record in records if record["population"] == name}
        cells = [
            f"{100 * mine[drop]['pass']:.1f} / {100 * mine[drop]['fail']:.1f}" if drop in mine else "" for drop in DROPS
        ]
        margin = next(iter(mine.values()))["margin"]
        lines.append(f"| {name} | {margin:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first_passing(changed: float, drop: float, margin: float) -> int:
    rows = 50.0
    while True:
        count = math.ceil(rows)
        worse, better = math.ceil(count * (changed + drop) / 2), math.floor(count * (changed - drop) / 2)
        if drop_exceeds_margin(worse, better, count, margin, set_error=set_error_for(CONFIDENCE)) <= ALPHA:
            return round(count, 1 - math.floor(math.log10(count)))
        rows *= 1.02


def _rows_table() -> str:
    """Number of rows at which an observed drop of 0, or of half the margin, would pass."""
    lines = ["| margin, points | observed drop | 1 % changed | 2 % changed | 5 % changed |", "|---|---|---|---|---|"]
    for margin in (0.01, 0.005):
        for times in (0.0, 0.5):
            cells = [f"{_first_passing(changed, times * margin, margin):,}" for changed in (0.01, 0.02, 0.05)]
            lines.append(f"| {100 * margin:g} | {100 * times * margin:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="samples per simulated population and drop")
    parser.add_argument("--resamples", type=int, default=999, help="bootstrap resamples")
    parser.add_argument("--only", default="", help="simulate only populations whose name contains this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", action="store_true", help="one JSON object per population and drop")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE.name}")
    parser.add_argument("--records", type=Path, help="output of --json; the last record of a cell counts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
