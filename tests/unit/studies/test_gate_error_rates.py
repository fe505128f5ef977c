# SPDX-License-Identifier: Apache-2.0
"""The validation of the gate: exact rates against sampling, populations against their stated drop."""

import numpy as np
import pytest
from gate_error_rates import ALPHA, SIMULATED, _exact
from harness.generated import with_tables
from scipy import stats

from sparse_deploy.gate.bootstrap import compare_metric
from sparse_deploy.gate.paired import evidence_of_counts


def test_exact_rates_are_those_of_sampling():
    rows, changed, margin = 200, 0.05, 0.02
    exact = next(record for record in _exact(rows, changed, margin) if record["drop_in_margins"] == 0.5)
    rng = np.random.default_rng(0)
    chances = [(changed + 0.5 * margin) / 2, (changed - 0.5 * margin) / 2, 1 - changed]
    verdicts = {}
    passes = 0
    for worse, better, _ in rng.multinomial(rows, chances, size=3000):
        if (worse, better) not in verdicts:
            found = evidence_of_counts(int(worse), int(better), rows, margin=margin, confidence=1 - ALPHA)
            verdicts[worse, better] = found.p_pass <= ALPHA
        passes += verdicts[worse, better]
    low, high = stats.binomtest(passes, 3000).proportion_ci(0.999)
    assert low < exact["pass"] < high


@pytest.mark.parametrize("name", [name for name, case in SIMULATED.items() if case.clustered])
def test_a_population_has_the_drop_it_is_asked_for(name):
    case, rng = SIMULATED[name], np.random.default_rng(1)
    drops = []
    for _ in range(25):
        sample = case.population(2 * case.margin, rng)
        found = compare_metric(
            case.tested, sample.baseline, sample.cell, margin=case.margin, confidence=0.95, resamples=2, seed=0
        )
        drops.append(found.drop)
    error = np.std(drops) / np.sqrt(len(drops))
    # Metrics that are no means are biased by about one row.
    assert np.mean(drops) == pytest.approx(2 * case.margin, abs=4 * error + 0.03 * case.margin)


def test_tables_go_between_their_markers():
    page = "a\n<!-- x: gate_error_rates.py -->\nold\n<!-- end of x -->\nb\n"
    new = "a\n<!-- x: gate_error_rates.py -->\nnew\n<!-- end of x -->\nb\n"
    assert with_tables(page, {"x": "new"}, "gate_error_rates.py") == new
    assert with_tables(new, {"x": "new"}, "gate_error_rates.py") == new
    with pytest.raises(SystemExit, match="expected"):
        with_tables("no markers", {"x": "new"}, "gate_error_rates.py")
