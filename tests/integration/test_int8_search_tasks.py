# SPDX-License-Identifier: Apache-2.0
"""The INT8 search by the metrics that have no exact test: F1 of SQuAD by paragraphs, Pearson of STS-B."""

from pathlib import Path
from typing import NamedTuple

import outlier_rescue
import pytest
from learnt_tasks import DATA, VALIDATION_PAIRS, VALIDATION_PARAGRAPHS, train, write_squad, write_stsb
from tiny_checkpoint import demo_recipe

from sparse_deploy import checkpoint as checkpoints
from sparse_deploy.artifacts import Manifest
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.weights import read_zero_masks
from sparse_deploy.stages.export import export_deployment

MAX_DROP = {"squad": 3.0, "stsb": 0.03}  # three points, each in its metric's own unit
METRIC = {"squad": "f1", "stsb": "pearson"}
ROWS = {"squad": 2 * VALIDATION_PARAGRAPHS, "stsb": VALIDATION_PAIRS}
DRAWN = {"squad": f"{VALIDATION_PARAGRAPHS} clusters of rows", "stsb": f"{VALIDATION_PAIRS} rows"}
MODE = {"squad": "static", "stsb": "dynamic"}


class Broken(NamedTuple):
    """A task, its text, and a checkpoint that has learnt it and has outliers that INT8 can't hold."""

    task: str
    data: Path
    checkpoint: Path

    def export(self, output: Path, progress=lambda message: None, **quantization: object) -> Manifest:
        accuracy = {"max_drop": MAX_DROP[self.task], "sensitivity_rows": 8} | quantization.pop("accuracy", {})
        recipe = demo_recipe(
            self.checkpoint,
            task=self.task,
            data=DATA,
            export={"openvino": False, "atol": 1e-3, "int8_agreement": 0.0, "sparse": {"enabled": False}},
            quantization={"calibration_samples": 32, "smoothing": 0.0, "accuracy": accuracy} | quantization,
        )
        return export_deployment(str(self.checkpoint), recipe, output, data_dir=self.data, progress=progress)


@pytest.fixture(scope="module", params=["squad", "stsb"])
def broken(request, sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    folder = tmp_path_factory.mktemp(request.param)
    data = (write_squad if request.param == "squad" else write_stsb)(folder / "data")
    learnt = train(sparse_encoder, request.param, data, folder / "learnt")
    outlier_rescue.make_outlier_model(learnt, folder / "outliers", ("value", "shift"), factor=64.0, constant=4096.0)
    return Broken(request.param, data, folder / "outliers")


def test_the_search_rescues_what_plain_int8_breaks(broken, tmp_path):
    messages: list[str] = []
    found = broken.export(tmp_path / "out", messages.append, mode=MODE[broken.task]).details["int8_search"]
    tolerance = MAX_DROP[broken.task]
    assert (found["metric"], found["rows"], found["verdict"]) == (METRIC[broken.task], ROWS[broken.task], "pass")
    assert f"resamples of {DRAWN[broken.task]}, seed" in found["method"]
    assert found["drop"] <= found["high"] <= tolerance
    plain = found["trials"][0]
    assert plain["fp32_operators"] == []
    assert plain["drop"] > tolerance
    assert plain["changed"] > 0
    assert 1 <= len(found["fp32_operators"]) < found["operators"] == len(found["sensitivity"]) == 12
    (best,) = [one for one in found["trials"] if one["fp32_operators"] == found["fp32_operators"] and
               one["calibration"] == found["calibration"]]  # fmt: skip
    assert (best["drop"], best["high"]) == (found["drop"], found["high"])
    told = [message for message in messages if message.startswith("INT8 trial")]
    assert len(told) == len(found["trials"])
    points = plain["drop"] * (1 if broken.task == "squad" else 100)
    assert f"0 operators in FP32, drop {points:.2f}, at most" in told[0]
    required = checkpoints.zero_masks(broken.checkpoint, DEFAULT_EXCLUDE)
    zeros = read_zero_masks(tmp_path / "out" / "model_int8.onnx")
    assert len(required) == 12
    assert all((zeros[name] | ~mask).all() for name, mask in required.items())


def test_failure_names_the_worst_layers_and_writes_nothing(broken, tmp_path):
    with pytest.raises(QuantizationError) as caught:
        broken.export(tmp_path / "out", mode="dynamic", accuracy={"max_trials": 2})
    line = str(caught.value)
    expected = f"dynamic INT8: expected {METRIC[broken.task]} to drop by at most 3.00 points with 95% confidence"
    assert line.startswith(f"{expected}, found none in 2 trials (best: ")
    assert "Worst operators: bert.encoder.layer." in line
    assert line.count("output error") == 5
    assert "\n" not in line
    assert not list(tmp_path.iterdir())
