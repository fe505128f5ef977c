# SPDX-License-Identifier: Apache-2.0
"""Resamples as counts: the same as building each one."""

import numpy as np
import pytest
from paired_rows import column, score_rows
from scipy import stats

from sparse_deploy.gate.resampling import RankedSample, SummedSample


def mean(sums):
    return sums[..., 0] / sums[..., 1]


def ranked_sample(rows=60):
    baseline, cell = score_rows(np.random.default_rng(0), rows=rows)
    arrays = column(cell, "label"), column(baseline, "prediction"), np.round(column(cell, "prediction"))
    return RankedSample(*arrays), arrays


def spearman_drop(labels, before, after):
    return stats.spearmanr(labels, before).statistic - stats.spearmanr(labels, after).statistic


def test_ranks_without_a_row_are_those_of_the_rest_with_ties():
    sample, arrays = ranked_sample()
    left_out, times = sample.jackknife()
    expected = [spearman_drop(*(np.delete(array, row) for array in arrays)) for row in range(60)]
    assert left_out == pytest.approx(expected)
    assert times.sum() == 60


def test_ranks_of_a_resample_are_those_of_its_rows():
    sample, arrays = ranked_sample()
    # As many draws as the sample makes of these seeds: the counts are the same as of rows taken one by one.
    found = sample.resample(5, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(60, size=(5, 60), dtype=np.int32)
    assert found == pytest.approx([spearman_drop(*(array[rows] for array in arrays)) for rows in drawn])


def test_observed_is_the_sample_itself():
    sample, arrays = ranked_sample()
    assert sample.observed() == pytest.approx(spearman_drop(*arrays))
    assert SummedSample(np.array([[3.0, 1.0], [5.0, 3.0]]), mean).observed() == 2.0


@pytest.mark.parametrize("kinds", [3, 400])
def test_few_kinds_and_many_are_drawn_alike(kinds):
    # Three kinds go through a multinomial, 400 different rows through single draws.
    values = np.repeat(np.linspace(0.0, 1.0, kinds), 402 // kinds)
    sample = SummedSample(np.stack([values, np.ones_like(values)], axis=1), mean)
    drops = sample.resample(20_000, np.random.default_rng(0))
    assert drops.mean() == pytest.approx(values.mean(), abs=0.001)
    assert drops.std() == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.03)


def test_kinds_are_counted():
    summands = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
    left_out, times = SummedSample(summands, mean).jackknife()
    order = np.argsort(left_out)
    assert left_out[order] == pytest.approx([2 / 4, 2 / 3, 3 / 4])
    assert times[order].tolist() == [2.0, 1.0, 1.0]


def test_many_rows_are_left_out_in_groups():
    sample, _ = ranked_sample(rows=1200)
    left_out, times = sample.jackknife()
    assert len(left_out) == len(times) == 500
