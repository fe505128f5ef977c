# SPDX-License-Identifier: Apache-2.0
"""Figures of a cell from its measured blocks."""

import pytest
from made_reports import make_cell
from tiny_deployment import BENCH_RECIPE

from sparse_deploy.config import recipe_from_mapping
from sparse_deploy.evaluation.latency import TimedRun, Timings
from sparse_deploy.measurement.pairing import Block, Counted
from sparse_deploy.results import Conditions
from sparse_deploy.stages.timing import timed_cells


def counted(*results):
    blocks = tuple(Block("openvino-int8", turn, result, ()) for turn, result in enumerate(results))
    return Counted(blocks, Conditions(cores="near", measured=2, counted=2, disturbed=0, moved=0), blocks)


def test_the_gain_of_streams_is_that_of_the_cell_over_itself_by_round():
    timings = Timings(
        latency=counted((10.0, 12.0), (10.0, 12.0)),
        throughput=counted((100, 1000, 10.0), (100, 1000, 5.0)),
        streamed=counted((150, 1500, 10.0), (300, 3000, 2.5)),
        shapes={},
        settled=True,
        rss_bytes=1,
        streams=2,
    )
    cell = make_cell("openvino-int8", 0)
    (found,) = timed_cells([cell], TimedRun({cell.id: timings}, 2, 1, ""), recipe_from_mapping(BENCH_RECIPE, "test"))
    # 15 / 10 and 120 / 20 examples per second, not the ratio of the whole runs.
    assert found.streamed.gain.value == pytest.approx((1.5 + 6.0) / 2)
    assert found.streamed.examples_per_second / found.throughput.examples_per_second == pytest.approx(2.7)
