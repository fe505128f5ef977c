# SPDX-License-Identifier: Apache-2.0
"""Tests every model family: a tiny random model of each is exported, compared and served.

    python studies/architectures.py                    # all families; the table goes to standard output
    python studies/architectures.py --write            # also writes it into docs/architectures.md
    python studies/architectures.py roberta modernbert

A cell is the result of a step: a figure, or the reason for the failure.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from tiny_architectures import FAMILIES, POSITIONS, save_tiny_model  # noqa: E402

from sparse_deploy.errors import one_line  # noqa: E402

PAGE = REPOSITORY / "docs" / "architectures.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
_COLUMNS = (
    "family", "fine-tune", "FP32", "static INT8", "dynamic INT8", "sparse layers", "parity, FP32", "parity, sparse",
    "serve",
)  # fmt: skip


@dataclass
class Row:
    """The cells of one family by column; a step that was not reached has no cell."""

    family: str
    cells: dict[str, str] = field(default_factory=dict)

    def attempt(self, column: str, step: Callable[[], Any]) -> Any:
        """Run a step; if it fails, the first line of the error becomes the cell."""
        try:
            result = step()
        except Exception as error:  # every failure is a cell of the table
            self.cells[column] = one_line(error, 160)
            return None
        self.cells.setdefault(column, "yes")
        return result


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="default: all")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in options.families or FAMILIES:
            rows.append(measure(family, Path(scratch, family)))
            print(_line([rows[-1].cells.get(column, "-") for column in _COLUMNS]), flush=True)
    table = _table(rows)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        inside = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
        PAGE.write_text(inside.sub(lambda _: f"{_BEGIN}\n{table}{_END}", text), encoding="utf-8")
    print(table)
    return 0 if all(row.cells.get(column) for row in rows for column in _COLUMNS) else 1


def measure(family: str, scratch: Path) -> Row:
    """Run all steps for one family."""
    from sparse_deploy.config.schema import Int8Mode
    from sparse_deploy.stages.export import export_deployment
    from sparse_deploy.stages.finetune import finetune

    row = Row(family, {"family": family})
    source = save_tiny_model(family, scratch / "source")
    trained, output = scratch / "trained", scratch / "deployment"
    if row.attempt("fine-tune", lambda: finetune(_recipe(source), trained)) is None:
        return row
    dynamic = row.attempt(
        "dynamic INT8",
        lambda: export_deployment(str(trained), _recipe(trained), scratch / "dynamic", int8=Int8Mode.DYNAMIC),
    )
    if dynamic is not None:
        row.cells["dynamic INT8"] = _agreement(dynamic.details, "model_int8.onnx")
    manifest = row.attempt("static INT8", lambda: export_deployment(str(trained), _recipe(trained), output))
    if manifest is None:
        manifest, output = dynamic, scratch / "dynamic"
    if manifest is None:
        row.attempt("FP32", lambda: export_deployment(str(trained), _recipe(trained), output, int8=Int8Mode.NONE))
        return row
    details = manifest.details
    if output.name == "deployment":
        row.cells["static INT8"] = _agreement(details, "model_int8.onnx")
    row.cells["FP32"] = "yes"
    row.cells["parity, FP32"] = f"{details['parity']['model.onnx']['max_abs']:.1e}"
    sparse = details["sparse"]
    layers = _layers(source)
    row.cells["sparse layers"] = f"{len(sparse['encoder_layers'])} of {layers}"
    if len(sparse["encoder_layers"]) < layers:
        reason = next(
            (why for name, why in sparse["left_standard"].items() if "attention" in name or "layer" in name), ""
        )
        row.cells["sparse layers"] += f"; {len(sparse['linears'])} SparseLinear ({reason or 'no reason'})"
    row.cells["parity, sparse"] = _agreement(details, "model_sparse.onnx")
    row.attempt("serve", lambda: _serve(output))
    return row


def _recipe(model: Path) -> Any:
    from sparse_deploy.config import recipe_from_mapping

    return recipe_from_mapping(
        {
            "name": "tiny",
            "task": "demo",
            "model": {"name_or_path": str(model)},
            "data": {"max_length": 64, "train_samples": 64, "validation_samples": 64},
            "sparsity": {"mode": "lock", "pattern": "unstructured", "target": 0.68},
            "finetune": {"max_steps": 4, "train_batch_size": 8},
            "quantization": {"calibration_samples": 16},
            # Random models give nearly equal logits; the table shows how often INT8 changes the prediction.
            "export": {"int8_agreement": 0.5},
        },
        "architectures",
    )


def _layers(source: Path) -> int:
    from sparse_deploy.architectures import architecture_of, read_config

    config = read_config(source)
    return int(str(config[architecture_of(config).layers]))


def _agreement(details: dict[str, Any], name: str) -> str:
    parity = details["parity"].get(name)
    return "-" if parity is None else f"{parity['argmax_agreement']:.0%}, mean {parity['mean_abs']:.1e}"


def _serve(deployment: Path) -> None:
    """Answer a text, and tensors of the longest usable input; refuse longer ones."""
    import numpy as np

    from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, Tensor
    from sparse_deploy.serving.model import open_model
    from sparse_deploy.serving.settings import ServerSettings

    model = open_model(ServerSettings(deployment=deployment), isolated=False)

    def request(tokens: int) -> InferRequest:
        ids = np.full((1, tokens), 9, np.int64)
        return InferRequest(id=None, inputs={"input_ids": Tensor("input_ids", ids.shape, ids)})

    text = InferRequest(id=None, inputs={"text": Tensor("text", (1,), ["a gripping film"])})
    for one in (text, request(POSITIONS)):
        prepared = model.prepare(one)
        outputs = [tuple(array[0] for array in model.session.run({k: v[None] for k, v in feature.items()}))
                   for feature in prepared.features]  # fmt: skip
        assert np.isfinite(outputs[0][0]).all()
    try:
        model.prepare(request(POSITIONS + 1))
    except RequestError:
        return
    raise AssertionError(f"{POSITIONS + 1} tokens were accepted")


def _table(rows: list[Row]) -> str:
    head = _line(_COLUMNS) + "\n" + "|---" * len(_COLUMNS) + "|\n"
    return head + "".join(_line([row.cells.get(column, "-") for column in _COLUMNS]) + "\n" for row in rows)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
