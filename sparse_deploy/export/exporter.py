# SPDX-License-Identifier: Apache-2.0
"""PyTorch to ONNX: one exporter for FP32 models and for Neural Compressor's quantized graphs."""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch

from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import ExportError
from sparse_deploy.graph.simplify import Simplify
from sparse_deploy.graph.sparsity_check import run_passes

QUESTION_ANSWERING = "question-answering"


class ExportableModel(torch.nn.Module):
    """A transformers model with three positional inputs and a tuple of tensors as output.

    The padding mask is turned into the additive ``[batch, 1, 1, tokens]`` form here: transformers passes a 4-D mask
    through, whereas its own code for a 2-D one traces to GatherND over index grids, 20 more nodes and a
    ``[batch, 1, tokens, tokens]`` tensor per request.
    """

    def __init__(self, model: torch.nn.Module, output_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.output_names = tuple(output_names)
        self._takes_token_types = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            input_ids: int64 ``[batch, tokens]``.
            attention_mask: int64 ``[batch, tokens]``, 1 for text and 0 for padding.
            token_type_ids: int64 ``[batch, tokens]``.

        Returns:
            The outputs in the order of ``output_names``, FP32.
        """
        padding = 1.0 - attention_mask[:, None, None, :].to(torch.float32)
        inputs = {"input_ids": input_ids, "attention_mask": padding * torch.finfo(torch.float32).min}
        if self._takes_token_types:
            inputs["token_type_ids"] = token_type_ids
        outputs = self.model(**inputs, return_dict=True)
        return tuple(outputs[name] for name in self.output_names)


def output_names(task_kind: str) -> tuple[str, ...]:
    """Names of a model's outputs for a task kind (see :class:`sparse_deploy.data.tasks.TaskKind`)."""
    return ("start_logits", "end_logits") if task_kind == QUESTION_ANSWERING else ("logits",)


def example_inputs() -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: a padded batch whose sizes differ from each other and from 1, which torch would fix."""
    ids = torch.zeros((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids, mask, torch.zeros_like(ids)


def to_onnx(
    module: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor],
    names: Sequence[str],
    opset: int,
) -> ir.Model:
    """Export to ONNX with dynamic ``batch`` and ``sequence``.

    Args:
        module: an :class:`ExportableModel`, or the graph that Neural Compressor made from one.
        example_inputs: int64 ``[batch, tokens]`` for each of :data:`MODEL_INPUTS`; batch and tokens at least 2.
        names: output names, in order.
        opset: ONNX operator set.

    Returns:
        The simplified graph; every parameter is an initializer under its own name.

    Raises:
        ExportError: torch can't express the model in this operator set.
    """
    axes = {0: "batch", 1: "sequence"}
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                tuple(example_inputs),
                dynamo=True,
                input_names=list(MODEL_INPUTS),
                output_names=list(names),
                opset_version=opset,
                dynamic_shapes=tuple(dict(axes) for _ in MODEL_INPUTS),
                optimize=False,  # see graph.simplify
                verbose=False,
            )
        except Exception as error:  # the exporter raises RuntimeError, its own classes, and what the model raises
            raise ExportError(
                f"ONNX export with opset {opset} failed: {_one_line(error)}; try another export.opset"
            ) from error
        if program is None:
            raise ExportError("ONNX export gave no model; report this with the recipe")
        model = run_passes(program.model, Simplify())
    _check_interface(model, names)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch, torchao and transformers print while exporting off the user's terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _check_interface(model: ir.Model, names: Sequence[str]) -> None:
    found = tuple(value.name for value in model.graph.inputs), tuple(value.name for value in model.graph.outputs)
    if found != (MODEL_INPUTS, tuple(names)):
        raise ExportError(
            f"ONNX export: expected inputs {', '.join(MODEL_INPUTS)} and outputs {', '.join(names)}, found {found}"
        )
    for value in model.graph.inputs:
        shape: Any = value.shape
        if [str(dimension) for dimension in shape] != ["batch", "sequence"]:
            raise ExportError(f"ONNX export: {value.name} is {shape}, expected [batch, sequence], both dynamic")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
