# SPDX-License-Identifier: Apache-2.0
"""Tables and findings: the right figures in the right unit, and no confident figure where there is none."""

from sparse_deploy.cli.bench import print_report
from sparse_deploy.config.schema import Goal, Reference
from sparse_deploy.report.conditions import condition_rows, machine_state, machine_was_steady
from sparse_deploy.report.findings import headline, zeros_kept
from sparse_deploy.report.sections import sections
from sparse_deploy.report.tables import reference_rows, shape_rows, sparsity_rows, stream_rows, summary_rows
from sparse_deploy.results import Conditions
from sparse_deploy.sparsity.statistics import SparsityRecord


def row_of(table, name):
    (row,) = [row for row in table.rows if row[0] == name]
    return dict(zip(table.headers, row, strict=True))


def test_summary_shows_shares_in_percent_and_differences_in_points(make_report):
    headers, rows = summary_rows(make_report())
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(headers)}
    row = row_of(summary_rows(make_report()), "onnxruntime-int8")
    assert row["accuracy %"] == "90.14"
    assert row["Δ points"] == "-0.34"
    assert row["agreement %"] == "98.74"
    assert row["p50 ms"] == "4.10"
    assert row["examples/s"] == "402"
    assert row["in streams"] == "-"
    assert row_of(summary_rows(make_report()), "openvino-int8")["in streams"] == "500"
    assert row["speed-up"] == "2.90x [2.82, 3.02]"
    assert row["size MB"] == "23.1"
    assert row["zeros %"] == "74.00"
    assert row["RSS MB"] == "171"


def test_the_baseline_row_has_no_difference_to_itself(make_report):
    row = row_of(summary_rows(make_report()), "pytorch-fp32")
    assert (row["Δ points"], row["speed-up"], row["agreement %"]) == ("baseline", "baseline", "-")


def test_a_difference_that_rounds_to_zero_has_no_sign(make_report):
    report = make_report({"openvino-fp32": {"metrics": {"accuracy": 0.90481}}})
    assert row_of(summary_rows(report), "openvino-fp32")["Δ points"] == "0.00"


def test_squad_metrics_are_in_percent_already(make_report):
    metrics = {
        cell.id: {"metrics": {"f1": 88.5 if cell.id == "pytorch-fp32" else 87.25}} for cell in make_report().cells
    }
    report = make_report(metrics, goals=(), task="squad", primary_metric="f1")
    row = row_of(summary_rows(report), "openvino-int8")
    assert (row["f1 %"], row["Δ points"]) == ("87.25", "-1.25")


def test_an_unstable_cell_shows_its_range_and_no_speed_up(make_report):
    report = make_report({"openvino-int8": {"stable": False, "instability": "spread 14 %"}})
    row = row_of(summary_rows(report), "openvino-int8")
    assert row["p50 ms"] == "unstable 3.56 to 3.64"
    assert row["p99 ms"] == row["speed-up"] == "unstable"
    assert row["accuracy %"] == "90.02"
    assert row_of(shape_rows(report), "openvino-int8")["speed-up"] == "unstable"


def test_the_command_line_cuts_no_cell_id_to_make_room(make_report, capsys):
    report = make_report(
        {cell.id: {"stable": False, "instability": "spread 14 %"} for cell in make_report().cells}
        | {"openvino-int8": {"id": "openvino-sparse-int8", "stable": False, "instability": "spread 14 %"}}
    )
    print_report(report)
    assert "…" not in capsys.readouterr().out


def test_an_unstable_baseline_takes_every_speed_up_with_it(make_report):
    report = make_report({"pytorch-fp32": {"stable": False}})
    speedups = {row[0]: row[9] for row in summary_rows(report).rows}
    assert set(speedups.values()) == {"baseline", "unstable"}
    assert row_of(summary_rows(report), "openvino-int8")["p50 ms"] == "3.60"


def test_missing_figures_are_dashes(make_report):
    missing = {
        "latency": None,
        "throughput": None,
        "streamed": None,
        "load_ms": None,
        "rss_bytes": None,
        "sparsity": None,
        "speedup": None,
    }
    report = make_report({"openvino-int8": missing}, goals=())
    row = row_of(summary_rows(report), "openvino-int8")
    assert {
        row[name]
        for name in ("p50 ms", "p99 ms", "examples/s", "in streams", "speed-up", "zeros %", "load ms", "RSS MB")
    } == {"-"}


def test_streams_stand_beside_the_latency_hint(make_report):
    assert [row[0] for row in stream_rows(make_report()).rows] == ["openvino-fp32", "openvino-int8"]
    assert row_of(stream_rows(make_report()), "openvino-int8") == {
        "cell": "openvino-int8",
        "streams": "2",
        "examples/s": "500",
        "tokens/s": "12,500",
        "spread %": "1.3",
        "over the latency hint": "1.10x [1.07, 1.12]",
    }
    unstable = row_of(stream_rows(make_report({"openvino-int8": {"stable": False}})), "openvino-int8")
    assert unstable["examples/s"] == "unstable 490 to 510"
    assert unstable["tokens/s"] == unstable["over the latency hint"] == "unstable"


def test_no_streams_no_table(make_report):
    report = make_report({cell.id: {"streamed": None} for cell in make_report().cells})
    assert stream_rows(report).rows == ()
    assert "Streams" not in [section.title for section in sections(report)]
    assert "Streams" in [section.title for section in sections(make_report())]


def test_references_are_compared_in_the_unit_of_the_source(make_report):
    references = (
        Reference(metrics={"accuracy": 91.5}, source="in percent"),
        Reference(metrics={"accuracy": 0.915}, source="as a share"),
        Reference(metrics={"matthews": 60.0}, source="of another metric"),
    )
    rows = reference_rows(make_report(reference=references)).rows
    assert rows[0][1:5] == ("91.5", "90.48", "-1.02", "90.02 to 90.48")
    assert rows[1][1:5] == ("0.915", "0.9048", "-0.0102", "0.9002 to 0.9048")
    assert rows[2][1:5] == ("60", "-", "-", "-")


def test_sparsity_rows_count_by_pattern(make_report):
    record = make_report().cells[0].sparsity
    mixed = tuple(t.model_copy(update={"pattern": "block 4x1"}) if "query" in t.name else t for t in record.tensors)
    report = make_report({"openvino-fp32": {"sparsity": SparsityRecord(tensors=mixed)}})
    rows = [row for row in sparsity_rows(report).rows if row[0] == "openvino-fp32"]
    assert [(row[1], row[2], row[3]) for row in rows] == [
        ("block 4x1", "6", f"{6 * 384 * 384:,}"),
        ("unstructured", "30", f"{6 * (3 * 384 * 384 + 2 * 384 * 1536):,}"),
    ]


def test_headline_of_a_good_report(make_report):
    fastest, goals, zeros, numbers = headline(make_report())
    assert fastest.answer == "openvino-int8"
    assert "p50 3.60 ms" in fastest.detail
    assert "90.02 % (-0.46 points)" in fastest.detail
    assert (goals.answer, goals.tone) == ("all passed", "good")
    assert (zeros.answer, zeros.tone) == ("kept in all cells", "good")
    assert numbers.tone == "good"


def test_headline_names_the_fastest_cell_that_meets_the_goals(make_report):
    goal = Goal(metric="accuracy", type="max-degradation", value=0.004)
    fastest, goals, _, _ = headline(make_report(goals=(goal,)))
    assert (fastest.answer, fastest.tone) == ("openvino-int8", "warn")
    assert "fastest cell that meets all: onnxruntime-int8" in fastest.detail
    assert (goals.answer, goals.tone) == ("1 of 5 FAILED", "bad")


def test_an_unstable_cell_is_never_the_fastest(make_report):
    fastest, _, _, numbers = headline(make_report({"openvino-int8": {"stable": False, "instability": "spread 14 %"}}))
    assert fastest.answer == "onnxruntime-int8"
    assert numbers.answer == "1 of 6 cells unstable"
    assert "openvino-int8: spread 14 %" in numbers.detail


def test_one_lost_zero_is_said(make_report):
    record = make_report().cells[0].sparsity
    first = record.tensors[0]
    lossy = (first.model_copy(update={"zeros": first.required_zeros - 1}), *record.tensors[1:])
    report = make_report({"openvino-int8": {"sparsity": SparsityRecord(tensors=lossy)}})
    found = zeros_kept(report)
    assert (found.answer, found.tone) == ("LOST", "bad")
    assert "openvino-int8 (1 tensors)" in found.detail
    assert row_of(sparsity_rows(report), "openvino-int8")["lost"] == "1"


def test_another_mask_or_a_missing_tensor_counts_as_lost(make_report):
    record = make_report().cells[0].sparsity
    other = (record.tensors[0].model_copy(update={"mask_sha256": "f" * 64}), *record.tensors[1:])
    assert zeros_kept(make_report({"openvino-int8": {"sparsity": SparsityRecord(tensors=other)}})).tone == "bad"
    fewer = SparsityRecord(tensors=record.tensors[1:])
    assert zeros_kept(make_report({"openvino-int8": {"sparsity": fewer}})).tone == "bad"


def test_a_dense_model_promises_nothing(make_report):
    record = make_report().cells[0].sparsity
    tensors = tuple(t.model_copy(update={"pattern": "dense", "zeros": 0, "required_zeros": 0}) for t in record.tensors)
    dense = SparsityRecord(tensors=tensors)
    cells = {cell.id: {"sparsity": dense} for cell in make_report().cells}
    assert zeros_kept(make_report(cells, goals=())).answer == "dense model"


class TestMachineState:
    STEADY = Conditions(cores="near", measured=5, counted=5, disturbed=0, moved=0)

    def of(self, make_report, conditions: Conditions):
        latency = make_report().cells[0].latency.model_copy(update={"conditions": conditions})
        return make_report({"pytorch-fp32": {"latency": latency}})

    def test_reports_of_earlier_versions_say_nothing(self, make_report):
        assert machine_state(make_report()) is None
        assert condition_rows(make_report()).rows == ()

    def test_a_steady_machine_is_told_in_the_headline(self, make_report):
        found = headline(self.of(make_report, self.STEADY))[-1]
        assert (found.question, found.answer, found.tone) == ("Machine", "undisturbed, cores near", "good")

    def test_disturbed_blocks_and_far_cores_are_told(self, make_report):
        conditions = Conditions(cores="far", measured=7, counted=4, disturbed=2, moved=1)
        found = headline(self.of(make_report, conditions))[-1]
        assert (found.answer, found.tone) == ("2 of 7 blocks disturbed, cores far", "warn")
        assert "Other processes used the CPUs during 2 of 7 blocks." in found.detail
        assert "more than 80 ns" in found.detail
        rows = condition_rows(self.of(make_report, conditions)).rows
        assert rows == (("pytorch-fp32", "latency", "far", "7", "2", "1", "4"),)

    def test_figures_of_disturbed_blocks_are_named(self, make_report):
        conditions = Conditions(cores="near", measured=5, counted=5, disturbed=4, moved=0)
        report = self.of(make_report, conditions)
        assert "pytorch-fp32 (latency), so all blocks count" in headline(report)[-1].detail
        assert condition_rows(report).rows[0][-1] == "5 (all)"
        assert not machine_was_steady(report)
