# SPDX-License-Identifier: Apache-2.0
"""Plots: well-formed, self-contained, the same bytes twice, and labelled so that labels do not cover each other."""

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from sparse_deploy.report import plots
from sparse_deploy.report.label_placement import place_labels
from sparse_deploy.sparsity.statistics import SparsityRecord

DRAWN = {
    "accuracy": plots.accuracy_against_latency,
    "latency": plots.latency_distributions,
    "throughput": plots.throughput_bars,
    "sparsity": lambda report: plots.sparsity_by_layer(report.cells[0].sparsity),
}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("name", DRAWN)
def test_svg_is_whole_deterministic_and_prefixed(name, make_report):
    svg = DRAWN[name](make_report())
    assert svg == DRAWN[name](make_report())
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(one.startswith(f"{name}-") for one in ids)
    assert (
        set(re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', svg)) - {(i, "") for i in ids} - {("", i) for i in ids}
        == set()
    )
    assert "<metadata" not in svg
    assert ET.fromstring(svg).get("viewBox")


def test_no_process_wide_setting_survives(make_report):
    before = dict(mpl.rcParams)
    plots.accuracy_against_latency(make_report())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", ["accuracy", "latency", "throughput"])
def test_every_cell_is_labelled(name, make_report):
    shown = texts(DRAWN[name](make_report()))
    assert {cell.id for cell in make_report().cells} <= set(shown)


def test_streams_have_a_bar_of_their_own(make_report):
    shown = texts(plots.throughput_bars(make_report()))
    assert {"455", "500, 2 streams"} <= set(shown)
    assert sum(text.endswith("streams") for text in shown) == 2


def test_accuracy_shows_the_strictest_goal(make_report):
    assert "goal: at least 89.98" in texts(plots.accuracy_against_latency(make_report()))


def test_a_dollar_sign_in_a_label_stays_text(make_report):
    report = make_report({"openvino-int8": {"id": "a $x_1 & <b>"}})
    assert "a $x_1 & <b>" in texts(plots.accuracy_against_latency(report))


def test_sparsity_rows_are_roles_and_columns_layers(make_report):
    shown = texts(plots.sparsity_by_layer(make_report().cells[0].sparsity))
    assert {"query", "key", "value", "attention output", "intermediate", "output"} <= set(shown)
    assert sum(text.isdigit() for text in shown) == 36 + 6


def test_distilbert_names_have_the_same_roles(make_report):
    tensors = make_report().cells[0].sparsity.tensors[:6]
    names = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")
    renamed = tuple(
        tensor.model_copy(update={"name": f"distilbert.transformer.layer.0.{name}.weight"})
        for tensor, name in zip(tensors, names, strict=True)
    )
    shown = texts(plots.sparsity_by_layer(SparsityRecord(tensors=renamed)))
    assert {"query", "attention output", "intermediate", "output"} <= set(shown)


def test_nothing_to_plot_gives_no_plot(make_report):
    bare = {cell.id: {"latency": None, "throughput": None, "streamed": None} for cell in make_report().cells}
    report = make_report(bare, goals=())
    assert plots.accuracy_against_latency(report) == ""
    assert plots.latency_distributions(report) == ""
    assert plots.throughput_bars(report) == ""
    assert plots.sparsity_by_layer(None) == ""


def test_labels_of_crowded_points_do_not_overlap():
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = [(f"onnxruntime-int8-{i}", 5 + 0.25 * (i % 4), 5 + 0.2 * (i // 4)) for i in range(10)]
    place_labels(figure, axes, points)
    figure.draw_without_rendering()
    boxes = [mpl.text.Text.get_window_extent(note) for note in axes.texts]  # the text alone, without its leader
    assert len(boxes) == 10
    overlapping = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]
    assert not overlapping
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)
