# SPDX-License-Identifier: Apache-2.0
"""One target of the export stage: ``model_int8.onnx``, static or dynamic, with selected operators in FP32."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sparse_deploy.activation_ranges import ActivationRanges
from sparse_deploy.config.schema import Int8Mode, QuantizationSection, Recipe
from sparse_deploy.data.features import Feature
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import QuantizationError
from sparse_deploy.graph import model_file, weights
from sparse_deploy.quantization.search import Calibration
from sparse_deploy.sparsity.integers import LARGEST_IN_7_BITS
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.weight_grid import NEIGHBOUR_SUM_KEY, saturates

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparse_deploy.export.exporter import ExportableModel
    from sparse_deploy.quantization.neural_compressor import StaticQuantizer

FP32_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
# The longest example is always used; a pool of this multiple of the sample has one near the maximum length.
_CALIBRATION_POOL = 4
# Calibrations that a search tries in addition to the recipe's.
_OBSERVERS = ("minmax", "percentile", "kl")
_SMOOTHINGS = (0.8, 0.0)


@dataclass(frozen=True)
class Int8Source:
    """A deployment with its FP32 files, and the other inputs of its INT8 files.

    Attributes:
        folder: the unfinished deployment: checkpoint, tokenizer, ``model.onnx``.
        model: the checkpoint, opened for export.
        graph: its exported FP32 ONNX graph, weights ``[out, in]`` with the parameters' names.
        required: required zeros of every file, by parameter name.
        text: function from ``(split, limit, seed)`` to encoded examples.
        learned: activation ranges of quantization-aware training.
    """

    folder: Path
    recipe: Recipe
    task: Task
    data_dir: Path | None
    model: "ExportableModel"
    graph: "ir.Model"
    required: Mapping[str, BoolArray]
    text: Callable[[str, int, int], list[Feature]]
    learned: ActivationRanges | None
    progress: Callable[[str], None]

    @property
    def settings(self) -> QuantizationSection:
        """The recipe's ``quantization`` section."""
        return self.recipe.quantization


class Builder(Protocol):
    """Makes INT8 graphs of one model.

    Attributes:
        details: entries for the manifest.
    """

    details: dict[str, Any]

    @property
    def operators(self) -> Sequence[str]:
        """Weights that can be INT8, in graph order."""
        ...

    def first(self) -> Calibration | None:
        """The recipe's calibration; None for dynamic INT8."""
        ...

    def others(self) -> Sequence[Calibration]:
        """Other calibrations that a search may try."""
        ...

    def build(self, calibration: Calibration | None, fp32: Collection[str] = ()) -> "ir.Model":
        """The graph with these operators in FP32, with checked zeros."""
        ...


def open_builder(source: Int8Source) -> Builder:
    """The builder of the recipe's mode."""
    return StaticBuilder(source) if source.settings.mode is Int8Mode.STATIC else DynamicBuilder(source)


class StaticBuilder:
    """Calibrates once per smoothing strength; every graph is then a copy of the result with some nodes changed.

    Args:
        source: see :class:`Int8Source`.
    """

    def __init__(self, source: Int8Source) -> None:
        self._source = source
        self._settings = source.settings
        self.details: dict[str, Any] = {}
        self._masters: dict[float, tuple[ir.Model, dict[str, dict[str, list[tuple[float, int]]]]]] = {}

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """See :class:`Builder`."""
        from sparse_deploy.graph.quantized_products import quantized_products

        master, _ = self._master(self.first().smoothing)
        return tuple(product.name for product in quantized_products(master))

    def first(self) -> Calibration:
        """See :meth:`Builder.first`."""
        return Calibration(self._settings.observer, self._settings.smoothing)

    def others(self) -> tuple[Calibration, ...]:
        """See :meth:`Builder.others`; none for weights that were trained on one grid."""
        if self._source.learned is not None:
            return ()
        strengths = dict.fromkeys((self._settings.smoothing, *_SMOOTHINGS))
        every = [Calibration(observer, strength) for strength in strengths for observer in _OBSERVERS]
        return tuple(one for one in every if one != self.first())

    def build(self, calibration: Calibration | None, fp32: Collection[str] = ()) -> "ir.Model":
        """See :meth:`Builder.build`."""
        from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
        from sparse_deploy.graph.restore_precision import RestorePrecision
        from sparse_deploy.graph.set_activation_scales import SetActivationScales
        from sparse_deploy.graph.sparsity_check import run_passes
        from sparse_deploy.graph.transpose_weights import TransposeWeights

        chosen = calibration or self.first()
        master, scales = self._master(chosen.smoothing)
        graph = run_passes(
            master.clone(),
            SetActivationScales(scales[chosen.observer]),
            RestorePrecision(fp32),
            FoldWeightQuantization(),
            TransposeWeights(),
        )
        _check(graph, "static INT8", self._source)
        return graph

    def _master(self, smoothing: float) -> "tuple[ir.Model, dict[str, dict[str, list[tuple[float, int]]]]]":
        if smoothing not in self._masters:
            from sparse_deploy.graph.quantize_products import QuantizeProducts
            from sparse_deploy.graph.sparsity_check import run_passes

            self._source.progress(f"INT8 calibration on {self._settings.calibration_samples} examples")
            observers = (self._settings.observer,) if self._settings.accuracy is None else _OBSERVERS
            found = self._quantizer.quantize(smoothing, tuple(dict.fromkeys((self._settings.observer, *observers))))
            self._source.progress("INT8 ONNX (static)")
            graph = run_passes(self._source.graph.clone(), QuantizeProducts(found.products))
            assert_zeros_kept("static INT8", self._source.required, weights.zero_masks(graph))
            self._masters[smoothing] = graph, found.scales
        return self._masters[smoothing]

    @cached_property
    def _quantizer(self) -> "StaticQuantizer":
        from sparse_deploy.export.exporter import quiet

        with quiet():  # Neural Compressor and torchao print during import
            from sparse_deploy.quantization.calibration import calibration_batches
            from sparse_deploy.quantization.neural_compressor import StaticQuantizer

        task, settings = self._source.task, self._settings
        features = self._source.text(task.train_split, settings.calibration_samples * _CALIBRATION_POOL, settings.seed)
        batches = calibration_batches(features, settings)
        self.details["calibration"] = {
            "split": task.train_split,
            "examples": sum(len(batch["input_ids"]) for batch in batches),
            "tokens": int(sum(batch["attention_mask"].sum() for batch in batches)),
            "observer": self.first().observer,
            "smoothing": self.first().smoothing,
            "seed": settings.seed,
        }
        if self._source.learned is not None:
            self.details["calibration"]["learned_layers"] = len(self._source.learned.layers)
        return StaticQuantizer(self._source.model, batches, settings, self._source.learned)


class DynamicBuilder:
    """ONNX Runtime's quantizer, once per graph.

    Args:
        source: see :class:`Int8Source`.
    """

    def __init__(self, source: Int8Source) -> None:
        self._source = source
        self.details: dict[str, Any] = {}

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """See :class:`Builder`."""
        from sparse_deploy.quantization.onnx_dynamic import quantizable_weights

        graph = model_file.load_onnx(self._source.folder / FP32_FILE)
        return tuple(quantizable_weights(graph, self._source.settings.exclude))

    def first(self) -> None:
        """See :meth:`Builder.first`; there is no calibration."""

    def others(self) -> tuple[Calibration, ...]:
        """See :meth:`Builder.others`; there are none."""
        return ()

    def build(self, calibration: Calibration | None, fp32: Collection[str] = ()) -> "ir.Model":
        """See :meth:`Builder.build`."""
        from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic

        graph = quantize_dynamic(self._source.folder / FP32_FILE, self._source.settings, keep=fp32)
        _check(graph, "dynamic INT8", self._source)
        return graph


def describe_weights(graph: "ir.Model", settings: QuantizationSection) -> dict[str, Any]:
    """Facts on the integers of an INT8 graph, for the manifest."""
    quantized = [weight for weight in weights.read_weights(graph) if weight.quantized]
    neighbours = max((weight.largest_neighbour_sum() for weight in quantized), default=0)
    largest = max((weight.largest() for weight in quantized), default=0)
    return {
        "target_cpu": settings.target_cpu,
        "bits": 7 if largest <= LARGEST_IN_7_BITS else 8,
        "largest_neighbour_sum": neighbours,
        "saturates_without_vnni": saturates(neighbours),
    }


def _check(graph: "ir.Model", stage: str, source: Int8Source) -> None:
    """Check zeros and the range of weights for CPUs without VNNI; record the supported CPUs in the file."""
    assert_zeros_kept(stage, source.required, weights.zero_masks(graph))
    target = source.settings.target_cpu
    found = describe_weights(graph, source.settings)
    if (target == "avx2" and found["bits"] != 7) or (target != "vnni" and found["saturates_without_vnni"]):
        raise QuantizationError(
            f"expected weights that don't saturate for quantization.target_cpu {target}, found {found['bits']} bits "
            f"and a sum of neighbours of {found['largest_neighbour_sum']}; report this with the recipe"
        )
    graph.metadata_props[NEIGHBOUR_SUM_KEY] = str(found["largest_neighbour_sum"])
