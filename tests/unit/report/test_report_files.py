# SPDX-License-Identifier: Apache-2.0
"""The three files: complete, self-contained, safe with hostile text, and the JSON reads back."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from sparse_deploy.config.schema import Reference
from sparse_deploy.errors import ArtifactError
from sparse_deploy.report.report import MAX_SAMPLES, load_report, write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "<script>alert('x')</script> | `a` [b](javascript:c) &amp;\n# d"


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and visible text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(folder) -> Page:
    page = Page()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_all_files_say_the_same_figures(make_report, tmp_path):
    write_report(make_report(), tmp_path / "new" / "report")
    folder = tmp_path / "new" / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    markdown, page = (folder / "report.md").read_text(encoding="utf-8"), " ".join(read_page(folder).text)
    for fact in (
        "openvino-int8", "3.31x [3.21, 3.44]", "90.02", "-0.46", "all passed", "kept in all cells", "avx512_vnni",
        "quota 2 CPUs", "2 threads used", "max-degradation 0.005", "1 x 128", "7,644,101", "https://example.org/paper",
        "1.10x [1.07, 1.12]", "2026.4.0", "throughput_batch_size",
        "sparse-deploy bench outputs/minilm-sst2-unstructured-70/deployment",
    ):  # fmt: skip
        assert fact in markdown
        assert fact in page


def test_the_page_asks_nothing_of_the_network(make_report, tmp_path):
    write_report(make_report(), tmp_path)
    page = read_page(tmp_path)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "a"}
    assert page.tags >= {"svg", "table", "style"}
    targets = [value for _, name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "report.html").read_text(encoding="utf-8"))


def test_ids_of_a_page_with_four_plots_are_unique(make_report, tmp_path):
    write_report(make_report(), tmp_path)
    ids = [value for _, name, value in read_page(tmp_path).attributes if name == "id"]
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


def test_hostile_text_stays_text(make_report, tmp_path):
    report = make_report(
        {"openvino-int8": {"note": HOSTILE, "stable": False, "instability": HOSTILE, "file": HOSTILE}},
        name=HOSTILE, deployment=HOSTILE, settings={HOSTILE: HOSTILE},
        reference=(Reference(metrics={"accuracy": 91.0}, source=HOSTILE, note=HOSTILE),),
    )  # fmt: skip
    write_report(report, tmp_path)
    page = read_page(tmp_path)
    assert "script" not in page.tags
    assert "<script>alert('x')</script>" in " ".join(page.text)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    outside_code = [line for line in markdown.splitlines() if not line.startswith("    ")]
    assert not any("<script" in line for line in outside_code)
    assert not any("](" in line for line in outside_code)
    assert "# d" not in markdown.splitlines()


def test_markdown_tables_keep_their_columns(make_report, tmp_path):
    write_report(make_report({"openvino-int8": {"note": "a | b | c"}}), tmp_path)
    columns = 0
    for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (0, count), line
        columns = count
    assert r"a \| b \| c" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_report_reads_back_whole(make_report, tmp_path):
    report = make_report({"openvino-int8": {"metrics": {"accuracy": math.nan, "loss": math.inf}}})
    write_report(report, tmp_path)
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    back = load_report(tmp_path)
    assert back == load_report(tmp_path / "report.json") or math.isnan(back.cell("openvino-int8").metrics["accuracy"])
    assert math.isnan(back.cell("openvino-int8").metrics["accuracy"])
    assert back.cell("openvino-int8").metrics["loss"] == math.inf
    original, again = report.cell("onnxruntime-int8"), back.cell("onnxruntime-int8")
    assert again.metrics == original.metrics
    assert again.sparsity == original.sparsity
    assert again.latency.samples_ms == pytest.approx(original.latency.samples_ms, abs=1e-4)
    assert back.gates[0] == report.gates[0]


def test_a_report_from_before_the_throughput_hint_is_read(make_report, tmp_path):
    write_report(make_report(), tmp_path)
    path = tmp_path / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        del cell["streamed"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert {cell.streamed for cell in load_report(path).cells} == {None}


def test_long_runs_are_thinned_evenly(make_report, tmp_path):
    cell = make_report().cell("openvino-int8")
    samples = tuple(float(i) for i in range(1, 25_001))
    long = cell.latency.model_copy(update={"samples_ms": samples, "requests": len(samples)})
    write_report(make_report({"openvino-int8": {"latency": long}}), tmp_path)
    kept = load_report(tmp_path).cell("openvino-int8")
    assert len(kept.latency.samples_ms) == MAX_SAMPLES
    assert kept.latency.samples_ms[0] < 13
    assert kept.latency.samples_ms[-1] > 24_980
    assert kept.latency.requests == 25_000
    assert kept.shapes[0].latency.samples_ms == ()


def test_writing_again_replaces_and_leaves_no_partial_file(make_report, tmp_path):
    write_report(make_report(), tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(make_report(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_report_without_timings_goals_or_zeros_is_written(make_report, tmp_path):
    bare = {"latency": None, "throughput": None, "streamed": None, "shapes": (), "sparsity": None, "speedup": None}
    write_report(make_report({cell.id: bare for cell in make_report().cells}, goals=(), reference=()), tmp_path)
    page = read_page(tmp_path)
    assert "svg" not in page.tags
    assert "No cell has a sparsity record." in " ".join(page.text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable report"),
        ("{}", "created: Field required"),
        ('{"schema_version": 2}', "schema_version"),
    ],
)
def test_a_bad_file_is_one_clear_line(content, message, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        load_report(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_baseline_is_an_error(make_report, tmp_path):
    with pytest.raises(ArtifactError, match="can't read the report"):
        load_report(tmp_path / "nothing.json")
    path = tmp_path / "report.json"
    path.write_text(make_report().model_copy(update={"baseline": "other-fp32"}).model_dump_json(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="'other-fp32' is not among"):
        load_report(path)


def test_a_folder_that_can_not_be_made_is_an_artifact_error(make_report, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ArtifactError, match="can't make the report folder"):
        write_report(make_report(), tmp_path / "file" / "report")
