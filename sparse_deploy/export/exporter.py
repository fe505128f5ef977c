# SPDX-License-Identifier: Apache-2.0
"""PyTorch to ONNX: one exporter for FP32 models and for Neural Compressor's quantized graphs."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch

from sparse_deploy.architectures import MODEL_INPUTS, MaskForm, architecture_of
from sparse_deploy.data.tasks import KINDS, TaskKind
from sparse_deploy.data.tasks.pooling import Pooling
from sparse_deploy.errors import ExportError, one_line
from sparse_deploy.graph.simplify import Simplify
from sparse_deploy.graph.sparsity_check import run_passes


class ExportableModel(torch.nn.Module):
    """A transformers model with positional inputs and a tuple of tensors as output.

    The model gets its padding mask in the form of its family's :class:`MaskForm`.

    Attributes:
        input_names: inputs of :meth:`forward`, in order: all of :data:`MODEL_INPUTS`, or the first two if the family
            has no token types.
    """

    def __init__(self, model: torch.nn.Module, output_names: Sequence[str], pooling: Pooling | None = None) -> None:
        super().__init__()
        self.model = model
        self.output_names = tuple(output_names)
        self._pooling = pooling
        config: Any = model.config
        content = config.to_dict()
        architecture = architecture_of(content)
        self.input_names = architecture.inputs(content)
        self._mask_form = architecture.mask
        if self._mask_form is MaskForm.WINDOWS:
            self._window = int(config.sliding_window)
            base: torch.nn.Module = getattr(model, str(model.base_model_prefix))
            base.register_forward_pre_hook(self._with_windows, with_kwargs=True)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            input_ids: int64 ``[batch, tokens]``.
            attention_mask: int64 ``[batch, tokens]``, 1 for text and 0 for padding.
            token_type_ids: int64 ``[batch, tokens]``; omitted if not in :attr:`input_names`.

        Returns:
            The outputs in the order of ``output_names``, FP32.
        """
        inputs = {"input_ids": input_ids, "attention_mask": self._mask(attention_mask)}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        outputs = self.model(**inputs, return_dict=True)
        if self._pooling is not None:
            return (self._pooling(outputs["last_hidden_state"], attention_mask),)
        return tuple(outputs[name] for name in self.output_names)

    def _mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        if self._mask_form is MaskForm.ADDITIVE:
            return _additive(attention_mask[:, None, None, :].to(torch.float32))
        if self._mask_form is MaskForm.KEYS:
            return attention_mask[:, None, None, :].bool()
        return attention_mask

    def _with_windows(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Pass one mask per kind of layer to an encoder; its code for a plain mask traces to many nodes."""
        attention_mask = kwargs["attention_mask"]
        kept = attention_mask[:, None, None, :].to(torch.float32)
        places = torch.arange(attention_mask.shape[1])
        near = ((places[:, None] - places[None, :]).abs() <= self._window).to(torch.float32)
        masks = {"full_attention": _additive(kept), "sliding_attention": _additive(kept * near)}
        return args, {**kwargs, "attention_mask": masks}


def _additive(kept: torch.Tensor) -> torch.Tensor:
    """The additive mask of attention scores: 0 where ``kept`` is 1, the lowest float where it is 0."""
    return (1.0 - kept) * torch.finfo(torch.float32).min


def output_names(task_kind: str) -> tuple[str, ...]:
    """Names of a model's outputs for a task kind (see :class:`sparse_deploy.data.tasks.TaskKind`)."""
    return tuple(output.name for output in KINDS[TaskKind(task_kind)].outputs)


def example_inputs(names: Sequence[str] = MODEL_INPUTS) -> tuple[torch.Tensor, ...]:
    """Example inputs for tracing: a padded batch with different sizes above 1, as torch makes 1 static."""
    ids = torch.zeros((2, 7), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return (ids, mask, torch.zeros_like(ids))[: len(names)]


def to_onnx(
    module: torch.nn.Module,
    example_inputs: Sequence[torch.Tensor],
    names: Sequence[str],
    opset: int,
) -> ir.Model:
    """Export to ONNX with dynamic ``batch`` and ``sequence``.

    Args:
        module: an :class:`ExportableModel`, or the graph that Neural Compressor made from one.
        example_inputs: int64 ``[batch, tokens]`` for each of the model's inputs, which are the first of
            :data:`MODEL_INPUTS`; batch and tokens at least 2.
        names: output names, in order.
        opset: ONNX operator set.

    Returns:
        The simplified graph; every parameter is an initializer with the parameter's name.

    Raises:
        ExportError: torch can't express the model in this operator set.
    """
    axes = {0: "batch", 1: "sequence"}
    inputs = MODEL_INPUTS[: len(example_inputs)]
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                tuple(example_inputs),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(names),
                opset_version=opset,
                dynamic_shapes=tuple(dict(axes) for _ in inputs),
                optimize=False,  # see graph.simplify
                verbose=False,
            )
        except Exception as error:  # the exporter raises RuntimeError, its own classes, and errors of the model
            raise ExportError(
                f"ONNX export with opset {opset} failed: {one_line(error)}; try another export.opset"
            ) from error
        if program is None:
            raise ExportError("ONNX export returned no model; report this with the recipe")
        model = run_passes(program.model, Simplify())
    _check_interface(model, inputs, names)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of torch, torchao and transformers during the export."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _check_interface(model: ir.Model, inputs: Sequence[str], names: Sequence[str]) -> None:
    found = tuple(value.name for value in model.graph.inputs), tuple(value.name for value in model.graph.outputs)
    if found != (tuple(inputs), tuple(names)):
        raise ExportError(
            f"ONNX export: expected inputs {', '.join(inputs)} and outputs {', '.join(names)}, found {found}"
        )
    for value in model.graph.inputs:
        shape: Any = value.shape
        if [str(dimension) for dimension in shape] != ["batch", "sequence"]:
            raise ExportError(f"ONNX export: {value.name} is {shape}, expected [batch, sequence], both dynamic")
