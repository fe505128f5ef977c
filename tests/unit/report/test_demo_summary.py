# SPDX-License-Identifier: Apache-2.0
"""The summary of the demo: it claims what the report holds, and says so where zeros don't pay or times are unsteady."""

import pytest
from made_reports import make_cell, make_latency, make_record

from sparse_deploy.report.demo_summary import demo_lines

DENSE = {"baseline_model_metrics": {"accuracy": 0.91}, "threads": 2}


def with_sparse(make_report, p50, *, spread=0.01, stable=True, **changes):
    """The report with a cell of the sparse file; the fastest dense one, openvino-int8, takes 3.6 ms."""
    report = make_report(settings=DENSE, **changes)
    sparse = make_cell(
        "openvino-int8", 9, id="sparse-int8", runtime="sparse", latency=make_latency(p50, 9, spread=spread)
    )
    sparse = sparse.model_copy(update={"stable": stable})
    return report.model_copy(update={"cells": (*report.cells, sparse)})


def summary(report):
    return "\n".join(demo_lines(report, make_record(), texts=512, seconds=21.4))


def test_figures_are_those_of_the_report(make_report, paired_gate):
    gate = paired_gate("openvino-int8", "pass", allowed=0.03, drop=0.01).model_copy(update={"cell": "sparse-int8"})
    text = summary(with_sparse(make_report, 1.8, gates=(gate,)))
    assert text.startswith("Intel(R) Xeon(R) Processor @ 2.10GHz, 2 threads")
    assert "72.0% of the encoder's weights are zero: chosen with 512 unlabelled texts in 21 s" in text
    assert "dense, PyTorch FP32: 91.00%; sparse, INT8: 90.02% (872 held-out texts)" in text
    assert "gate, a drop of at most 3 points: pass (drop 1.00, 95% bounds -0.35 to 0.23)" in text
    assert "25 tokens at the median" in text
    times = [float(line.split()[-2]) for line in text.splitlines() if line.endswith(" ms")]
    assert times == [11.9, 9.4, 8.3, 7.6, 4.1, 3.6, 1.8]


@pytest.mark.parametrize(
    ("p50", "spread", "said"),
    [
        (
            1.8,
            0.01,
            "The sparse model is faster on this CPU: 2.00 times as fast as OpenVINO, INT8, the fastest dense runtime (",
        ),
        (
            7.2,
            0.01,
            "The sparse model is slower on this CPU for such short texts: OpenVINO, INT8 is 2.00 times as fast",
        ),
        (3.5, 0.2, "No difference on this CPU for such short texts: 1.03 times as fast as OpenVINO, INT8"),
    ],
)
def test_whether_the_zeros_pay(make_report, p50, spread, said):
    assert said in summary(with_sparse(make_report, p50, spread=spread))


def test_cells_are_compared_round_by_round(make_report):
    """Blocks that don't count are missing in one cell and not in the other: the others must not be paired with them."""
    report = with_sparse(make_report, 1.8)
    *dense, sparse = report.cells

    def summary_of(rounds, medians):
        latency = sparse.latency.model_copy(update={"rounds": rounds, "block_medians_ms": medians})
        cells = (*dense, sparse.model_copy(update={"latency": latency}))
        return summary(report.model_copy(update={"cells": cells}))

    fastest = next(cell for cell in dense if cell.id == "openvino-int8").latency.block_medians_ms
    assert "2.00 times as fast as OpenVINO, INT8, the fastest dense runtime (2.00 to 2.00, 95% interval over 2" in (
        summary_of((1, 4), (fastest[1] / 2, fastest[4] / 2))
    )
    assert "No round has undisturbed blocks of both" in summary_of((7, 8), (1.8, 1.8))


def test_unsteady_times_are_marked(make_report):
    text = summary(with_sparse(make_report, 1.8, stable=False))
    assert "1.80 ms  unstable" in text
    assert "The times of sparse operators in ONNX Runtime, INT8 were unstable" in text


def test_what_could_not_run_or_did_not_pass_is_said(make_report, paired_gate):
    report = with_sparse(
        make_report, 1.8, gates=(paired_gate("onnxruntime-int8", "fail"), paired_gate("openvino-int8", "pass"))
    )
    reasons = {
        "openvino-int8": "this CPU saturates",
        "openvino-sparse-int8": "the deployment has no openvino_sparse.xml",
    }
    text = summary(report.model_copy(update={"settings": {**DENSE, "skipped_cells": reasons}}))
    assert "1 of the 2 checks of other files did not pass" in text
    assert "Skipped   openvino-int8: this CPU saturates" in text
    assert "openvino-sparse" not in text


def test_without_the_operators_nothing_is_claimed_for_zeros(make_report):
    text = summary(make_report(settings=DENSE))
    assert "pay" not in text
    assert "3.60 ms" in text
