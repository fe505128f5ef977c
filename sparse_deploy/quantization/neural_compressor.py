# SPDX-License-Identifier: Apache-2.0
"""Static INT8 by Neural Compressor's PT2E route: export, observe calibration text, convert to a QDQ graph."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import INT8StaticQuantConfig, convert, prepare
from numpy.typing import NDArray
from torchao.quantization.pt2e import PerChannelMinMaxObserver

from sparse_deploy.activation_ranges import ActivationRanges
from sparse_deploy.architectures import MODEL_INPUTS
from sparse_deploy.config.schema import QuantizationSection
from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph.quantize_products import ProductQuantization
from sparse_deploy.quantization.calibration import Batch
from sparse_deploy.quantization.compensation import compensate_rounding
from sparse_deploy.quantization.learned_ranges import learned_linears, use_learned_ranges
from sparse_deploy.quantization.observers import JointObserver, WeightObserver, activation_observer
from sparse_deploy.quantization.smoothing import (
    SMOOTHING,
    OutlierRanges,
    graph_inputs,
    linears,
    record_outliers,
    smooth_outliers,
    token_linears,
)
from sparse_deploy.sparsity.weight_grid import GRIDS

_OBSERVER = "activation_post_process"
# Attributes that Neural Compressor sets on an exported graph and reads later.
_EXPORT_MARKS = ("_exported", "dynamic_shapes")


@dataclass(frozen=True)
class StaticGraph:
    """A calibrated graph, and the ranges of other observers from the same calibration.

    Attributes:
        prepared: the graph with observers.
        products: input of ``QuantizeProducts``, which makes the same graph in ONNX: for each name of a quantized weight
            the products that read it, in order.
        scales: for each observer and name of a quantized weight, scale and zero point of the inputs of these products.
            The first observer is the graph's own.
    """

    prepared: torch.fx.GraphModule
    products: dict[str, list[ProductQuantization | None]]
    scales: dict[str, dict[str, list[tuple[float, int]]]]


class StaticQuantizer:
    """Quantizes the ``nn.Linear`` layers that are applied to each token; pooler, head and excluded ones stay FP32.

    Weights become symmetric int8 per output channel with zero point 0, so a zero weight stays zero. Inputs of those
    layers become asymmetric uint8 per tensor. Everything else (residuals, LayerNorm, softmax, mask, GELU) stays FP32.

    Args:
        model: a model of ``(input_ids, attention_mask, token_type_ids)``, int64 ``[batch, tokens]``, by position. It is
            set to eval mode, otherwise unchanged.
        batches: see :func:`sparse_deploy.quantization.calibration.calibration_batches`.
        settings: ``percentile``, ``target_cpu`` (not ``auto``) and ``exclude``.
        learned: ranges of quantization-aware training; their layers are neither smoothed nor calibrated.

    Raises:
        QuantizationError: no calibration data, or Neural Compressor can't trace the model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Sequence[Batch],
        settings: QuantizationSection,
        learned: ActivationRanges | None = None,
    ) -> None:
        if not batches:
            raise QuantizationError(
                "static INT8: expected calibration batches, found none; use quantization.mode: dynamic"
            )
        self._model = model.eval()
        self._batches = batches
        self._settings = settings
        self._learned = learned
        with self._refusals():
            self._exported = _export(model)
        self._outliers: OutlierRanges | None = None

    def quantize(
        self,
        smoothing: float,
        observers: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> StaticGraph:
        """Smooth and calibrate.

        Args:
            smoothing: see :func:`sparse_deploy.quantization.smoothing.smooth_outliers`; 0 switches it off.
            observers: ``minmax``, ``percentile``, ``kl``; all observe the same calibration, the first is used.
            progress: called with (batches done, all batches) while calibrating.

        Raises:
            QuantizationError: nothing to quantize, or Neural Compressor failed.
        """
        with self._refusals():
            graph = _copy(self._exported)
            if smoothing:
                trained = learned_linears(self._exported.graph, self._learned)
                self._outliers = self._outliers or record_outliers(self._exported, self._batches, trained)
                smooth_outliers(graph, self._outliers, smoothing)
            # prepare() changes its argument; the inputs of the layers are computed by the graph without observers.
            plain = _copy(graph) if self._compensates else graph
            prepared = prepare(graph, _config(self._model, self._settings))
            _observe_token_linears_only(prepared)
            joint = _choose_observers(prepared, observers, self._settings)
            batches = self._batches
            if self._learned is not None and not use_learned_ranges(prepared, joint, self._learned):
                batches = batches[:1]  # the observers of the weights need only one batch
            _calibrate(prepared, batches, progress)
            if self._compensates:
                compensate_rounding(plain, prepared, self._batches)
            scales = _scales(prepared, joint)
            return StaticGraph(prepared, _products(prepared, joint), scales)

    @property
    def _compensates(self) -> bool:
        """Round the weights with compensation; weights of quantization-aware training are already on their grid."""
        return self._settings.weight_rounding == "compensated" and self._learned is None

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        with _neural_compressor_messages() as messages, torch.no_grad():
            try:
                yield
            except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, NotImplementedError) as error:
                reason = " ".join((messages[-1] if messages else str(error) or type(error).__name__).split())[:300]
                raise QuantizationError(
                    f"static INT8: Neural Compressor could not quantize {type(self._model).__name__}: {reason}. Use "
                    f"quantization.mode: dynamic, or name the layer in quantization.exclude."
                ) from error


def quantize_static(
    model: torch.nn.Module,
    calibration_batches: Sequence[Batch],
    settings: QuantizationSection,
    progress: Callable[[int, int], None] | None = None,
    learned: ActivationRanges | None = None,
) -> torch.fx.GraphModule:
    """:class:`StaticQuantizer` with the smoothing and the observer of the settings, converted by Neural Compressor.

    Returns:
        A graph with quantize and dequantize nodes and FP32 weights, dynamic in batch and tokens, for
        ``torch.onnx.export(dynamo=True)``; export makes the same of the FP32 ONNX graph (``QuantizeProducts``).

    Raises:
        QuantizationError: as there.
    """
    quantizer = StaticQuantizer(model, calibration_batches, settings, learned)
    found = quantizer.quantize(settings.smoothing, (settings.observer,), progress)
    with torch.no_grad(), _neural_compressor_messages():
        converted: torch.fx.GraphModule = convert(found.prepared)
    # The graph was traced in eval mode, but its flag is still that of training, about which the ONNX exporter warns.
    for module in converted.modules():
        module.training = False
    return converted


def _copy(exported: torch.fx.GraphModule) -> torch.fx.GraphModule:
    copied = copy.deepcopy(exported)
    for name in _EXPORT_MARKS:  # deepcopy of a GraphModule does not copy them
        setattr(copied, name, getattr(exported, name, None))
    return copied


def _export(model: torch.nn.Module) -> torch.fx.GraphModule:
    # Batch and tokens of the example differ from each other and from 1, so that the exporter keeps both dynamic.
    ids = torch.zeros((2, 7), dtype=torch.int64)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))[: len(getattr(model, "input_names", MODEL_INPUTS))]
    exported: torch.fx.GraphModule = export(model, inputs, dynamic_shapes=(dynamic,) * len(inputs))
    # A pooler that no output needs: torchao's quantizer fails on a product without a result.
    exported.graph.eliminate_dead_code()
    exported.recompile()
    return exported


def _config(model: torch.nn.Module, settings: QuantizationSection) -> INT8StaticQuantConfig:
    config = INT8StaticQuantConfig()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and any(part in name for part in settings.exclude):
            config.set_local(name, INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    return config


def _observe_token_linears_only(prepared: torch.fx.GraphModule) -> None:
    """Remove all observers except those of the Linear layers that are applied to each token.

    The x86 recipe also quantizes products of two tensors of one shape (inside a decomposed GELU), and the layers that
    run once per sequence: pooler and head. INT8 saves no time in these layers, ONNX Runtime does not fuse a Gemm with a
    following activation, and the head's rounding directly changes the logits.
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


def _choose_observers(
    prepared: torch.fx.GraphModule, methods: Sequence[str], settings: QuantizationSection
) -> dict[torch.fx.Node, JointObserver]:
    """Replace Neural Compressor's observers by this package's; return the observers of activations."""
    joint = {}
    for node in [node for node in prepared.graph.nodes if _is_observer(node)]:
        old = prepared.get_submodule(node.target)
        if isinstance(old, PerChannelMinMaxObserver):
            prepared.set_submodule(node.target, WeightObserver(GRIDS[settings.target_cpu], old))
            continue
        joint[node] = activation_observer(old, methods, settings.percentile)
        prepared.set_submodule(node.target, joint[node])
    return joint


def _scales(
    prepared: torch.fx.GraphModule, joint: Mapping[torch.fx.Node, JointObserver]
) -> dict[str, dict[str, list[tuple[float, int]]]]:
    """Scales by observer and by the weight of the observed tensor's product."""
    found: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for node, observer in joint.items():
        for method, scale in observer.scales().items():
            for linear in node.users:
                found.setdefault(method, {}).setdefault(_weight_name(linear), []).append(scale)
    return found


def _products(
    prepared: torch.fx.GraphModule, joint: Mapping[torch.fx.Node, JointObserver]
) -> dict[str, list[ProductQuantization | None]]:
    """Scales, weights and smoothing of the products, by the name of the weight; None for an FP32 product."""
    found: dict[str, list[ProductQuantization | None]] = {}
    for linear in linears(prepared.graph):
        observed, how = linear.args[0], None
        if isinstance(observed, torch.fx.Node) and observed in joint:
            how = _product(prepared, linear, observed, joint[observed])
        found.setdefault(_weight_name(linear), []).append(how)
    return {name: products for name, products in found.items() if any(products)}


def _product(
    prepared: torch.fx.GraphModule, linear: torch.fx.Node, observed: torch.fx.Node, observer: JointObserver
) -> ProductQuantization:
    scale, zero_point = next(iter(observer.scales().values()))
    weight = _weight_observer(prepared, linear)
    return ProductQuantization(
        weight=_attribute(prepared, _weight_name(linear)).detach().float().numpy().copy(),
        weight_scale=weight.calculate_qparams()[0].float().numpy().copy(),
        weight_range=(weight.grid.low, weight.grid.high),
        input_scale=scale,
        input_zero_point=zero_point,
        smoothing=_smoothing(prepared, observed.args[0]),
    )


def _smoothing(prepared: torch.fx.GraphModule, observed: object) -> NDArray[np.float32] | None:
    """The factor of :func:`smooth_outliers` before an observed input."""
    if not isinstance(observed, torch.fx.Node) or observed.target is not torch.ops.aten.mul.Tensor:
        return None
    factor = observed.args[1]
    if not isinstance(factor, torch.fx.Node) or not str(factor.target).endswith(f".{SMOOTHING}"):
        return None
    return _attribute(prepared, str(factor.target)).numpy().copy()


def _weight_observer(prepared: torch.fx.GraphModule, linear: torch.fx.Node) -> Any:
    observed = linear.args[1]
    assert isinstance(observed, torch.fx.Node)  # noqa: S101 - an observed input comes with an observed weight
    return prepared.get_submodule(str(observed.target))


def _attribute(module: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    found: torch.Tensor = getattr(module.get_submodule(owner), attribute)
    return found


def _weight_name(linear: torch.fx.Node) -> str:
    weight = linear.args[1]
    while isinstance(weight, torch.fx.Node) and weight.op != "get_attr":  # its observer is in between
        weight = weight.args[0]
    assert isinstance(weight, torch.fx.Node)  # noqa: S101 - a Linear's weight is a parameter
    return str(weight.target)


def _is_observer(node: torch.fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(_OBSERVER)


def _calibrate(
    prepared: torch.fx.GraphModule, batches: Sequence[Batch], progress: Callable[[int, int], None] | None
) -> None:
    for done, batch in enumerate(batches, start=1):
        prepared(*(torch.from_numpy(batch[name]) for name in graph_inputs(prepared)))
        if progress:
            progress(done, len(batches))


@contextmanager
def _neural_compressor_messages() -> Iterator[list[str]]:
    """Suppress logs of Neural Compressor and torchao; yield the error messages, which are logged instead of raised."""
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
