# SPDX-License-Identifier: Apache-2.0
"""Static INT8 by Neural Compressor's PT2E route: export, observe calibration text, convert to a QDQ graph."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare
from torchao.quantization.pt2e import MinMaxObserver, MovingAverageMinMaxObserver

from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.data.tasks import MODEL_INPUTS
from sparse_deploy.errors import QuantizationError
from sparse_deploy.quantization.calibration import Batch
from sparse_deploy.quantization.smoothing import smooth_outliers, token_linears

_OBSERVER = "activation_post_process"


def quantize_static(
    model: torch.nn.Module,
    calibration_batches: Sequence[Batch],
    settings: QuantizationSection,
    progress: Callable[[int, int], None] | None = None,
) -> torch.fx.GraphModule:
    """Quantize the ``nn.Linear`` layers that see each token to INT8; pooler, head and excluded ones stay FP32.

    Weights become symmetric int8 per output channel with zero point 0, so a zero weight stays zero. Inputs of those
    layers become asymmetric uint8 per tensor. Everything else (residuals, LayerNorm, softmax, mask, GELU) stays FP32.

    Args:
        model: takes ``(input_ids, attention_mask, token_type_ids)``, int64 ``[batch, tokens]``, by position. Put in
            eval mode, otherwise unchanged.
        calibration_batches: see :func:`sparse_deploy.quantization.calibration.calibration_batches`.
        settings: ``observer`` and ``exclude``.
        progress: called with (batches done, all batches) while calibrating.

    Returns:
        A graph with quantize and dequantize nodes and FP32 weights, dynamic in batch and tokens, for
        ``torch.onnx.export(dynamo=True)``.

    Raises:
        QuantizationError: no calibration data, nothing to quantize, or Neural Compressor failed.
    """
    if not calibration_batches:
        raise QuantizationError("static INT8: expected calibration batches, found none; use quantization.mode: dynamic")
    model.eval()
    with _neural_compressor_messages() as messages, torch.no_grad():
        try:
            exported = _export(model)
            smooth_outliers(exported, calibration_batches)
            prepared = prepare(exported, _config(model, settings))
            _observe_token_linears_only(prepared)
            if settings.observer == "minmax":
                _use_whole_range(prepared)
            _calibrate(prepared, calibration_batches, progress)
            converted: torch.fx.GraphModule = convert(prepared)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
            reason = " ".join((messages[-1] if messages else str(error) or type(error).__name__).split())[:300]
            raise QuantizationError(
                f"static INT8: Neural Compressor could not quantize {type(model).__name__}: {reason}. Use "
                f"quantization.mode: dynamic, or name the layer in quantization.exclude."
            ) from error
    # The graph is traced in eval mode; the flag alone still says training, and the ONNX exporter warns about it.
    for module in converted.modules():
        module.training = False
    return converted


def _export(model: torch.nn.Module) -> torch.fx.GraphModule:
    # Batch and tokens of the example differ from each other and from 1, or the exporter would tie or fix them.
    ids = torch.zeros((2, 7), dtype=torch.int64)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported: torch.fx.GraphModule = export(
        model, (ids, torch.ones_like(ids), torch.zeros_like(ids)), dynamic_shapes=(dynamic,) * len(MODEL_INPUTS)
    )
    return exported


def _config(model: torch.nn.Module, settings: QuantizationSection) -> INT8StaticQuantConfig:
    config = INT8StaticQuantConfig(act_algo=settings.observer)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and any(part in name for part in settings.exclude):
            config.set_local(name, INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    return config


def _observe_token_linears_only(prepared: torch.fx.GraphModule) -> None:
    """Drop the observers of everything but the Linear layers that see each token.

    The x86 recipe also takes products of two tensors of one shape (inside a spelled-out GELU), and the layers that run
    once per sequence: pooler and head. INT8 saves no time in those, ONNX Runtime doesn't fuse a Gemm with an
    activation behind it, and the head's rounding goes straight into the logits.
    """
    wanted = set(token_linears(prepared.graph))
    for node in [node for node in prepared.graph.nodes if _is_observer(node)]:
        for user in [user for user in node.users if user not in wanted]:
            user.replace_input_with(node, node.args[0])
        if not node.users:
            prepared.graph.erase_node(node)
    prepared.recompile()
    if not any(_is_observer(node) for node in prepared.graph.nodes):
        raise ValueError("no Linear layer is left to quantize")


def _use_whole_range(prepared: torch.fx.GraphModule) -> None:
    # Neural Compressor's "minmax" is a moving average with constant 0.01: the first batch decides, what later ones
    # show beyond it is clipped. The plain minimum and maximum doesn't depend on the order.
    for node in prepared.graph.nodes:
        if not _is_observer(node):
            continue
        old = prepared.get_submodule(node.target)
        if isinstance(old, MovingAverageMinMaxObserver):
            new = MinMaxObserver(dtype=old.dtype, qscheme=old.qscheme, quant_min=old.quant_min, quant_max=old.quant_max)
            prepared.set_submodule(node.target, new)


def _is_observer(node: torch.fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(_OBSERVER)


def _calibrate(
    prepared: torch.fx.GraphModule, batches: Sequence[Batch], progress: Callable[[int, int], None] | None
) -> None:
    for done, batch in enumerate(batches, start=1):
        prepared(*(torch.from_numpy(batch[name]) for name in MODEL_INPUTS))
        if progress:
            progress(done, len(batches))


@contextmanager
def _neural_compressor_messages() -> Iterator[list[str]]:
    """Keep Neural Compressor and torchao quiet; yield the error messages, which it logs instead of raising."""
    messages: list[str] = []
    logger = logging.getLogger("neural_compressor")

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            messages.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield messages
    finally:
        logger.removeFilter(keep)
