# SPDX-License-Identifier: Apache-2.0
"""The recipe: one YAML file per model and task, checked field by field.

Every model is frozen and forbids unknown keys. Names follow Hugging Face ``TrainingArguments`` and Olive where they
have an equivalent.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from sparse_deploy.architectures import dense_parts
from sparse_deploy.bounds import MAX_BATCH, MAX_THREADS
from sparse_deploy.config.data_section import DataSection as DataSection
from sparse_deploy.config.data_section import TaskSection as TaskSection
from sparse_deploy.config.section import Section as Section
from sparse_deploy.sparsity.pattern import DENSE, PatternKind, SparsityPattern

Pattern = Annotated[
    SparsityPattern,
    BeforeValidator(lambda value: SparsityPattern.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
]


KnownTask = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "squad", "squad_v2", "demo"]


class ModelSection(Section):
    """The checkpoint to start from.

    Attributes:
        name_or_path: hub id, local folder, or ``package:NAME/PATH`` for weights inside an installed Python package (the
            demo's MiniLM encoder); ``finetune`` needs it, here or on the command line.
        revision: branch, tag or commit on the hub; the manifest records the resolved commit.
        dropout: overrides the hidden and attention dropout of the model's config when set.
    """

    name_or_path: str = ""
    revision: str = "main"
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)


class SparsityMode(StrEnum):
    """Treatment of zeros in fine-tuning."""

    NONE = "none"
    LOCK = "lock"
    PRUNE = "prune"


DEFAULT_EXCLUDE = dense_parts()


class SparsitySection(Section):
    """The required zeros.

    Attributes:
        mode: ``lock`` keeps the zeros of the checkpoint, ``prune`` makes zeros and then keeps them, ``none`` is a dense
            fine-tune. (``one-shot`` means ``prune`` with this schedule.)
        schedule: ``gradual`` makes the zeros during training, ``one-shot`` before the first step.
        method: ``magnitude`` zeros the smallest weights; ``second-order`` reads training text, selects zeros and
            adjusts the other weights so that the output of each layer changes least (docs/pruning.md). It takes
            seconds to minutes per pruning step, so use a large ``frequency`` with a gradual schedule.
        method_samples: number of training examples for ``second-order`` per pruning step.
        pattern: the pattern of every prunable tensor.
        target: required share of zeros over all prunable tensors, 0 to 1.
        tolerance: largest allowed distance of a checkpoint below ``target``.
        scope: rank weights over the whole model (``global``) or inside each tensor (``layer``).
        begin, end: part of the training during which gradual pruning runs, 0 to 1.
        frequency: optimizer steps between two mask updates.
        exclude: parameters whose name contains one of these texts stay dense.
    """

    mode: SparsityMode = SparsityMode.NONE
    schedule: Literal["gradual", "one-shot"] = "gradual"
    method: Literal["magnitude", "second-order"] = "magnitude"
    method_samples: int = Field(default=512, ge=1)
    pattern: Pattern = DENSE
    target: float = Field(default=0.0, ge=0.0, lt=1.0)
    tolerance: float = Field(default=0.01, ge=0.0, lt=1.0)
    scope: Literal["global", "layer"] = "layer"
    begin: float = Field(default=0.0, ge=0.0, le=1.0)
    end: float = Field(default=0.5, ge=0.0, le=1.0)
    frequency: int = Field(default=20, ge=1)
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE

    @model_validator(mode="before")
    @classmethod
    def _read_one_shot(cls, data: Any) -> Any:
        """Accept ``mode: one-shot`` of older recipes, which had no key for the schedule."""
        if isinstance(data, dict) and data.get("mode") == "one-shot":
            if data.get("schedule", "one-shot") != "one-shot":
                raise ValueError(f"mode one-shot contradicts schedule {data['schedule']}; use mode prune")
            return {**data, "mode": "prune", "schedule": "one-shot"}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> "SparsitySection":
        dense = self.pattern.kind is PatternKind.DENSE
        if self.mode is not SparsityMode.NONE and dense:
            raise ValueError(f"mode {self.mode.value} needs a pattern other than dense")
        if self.mode is SparsityMode.NONE and not dense:
            raise ValueError(f"pattern {self.pattern} needs mode lock or prune")
        if self.pattern.kind is PatternKind.N_M and abs(self.target - (1 - self.pattern.n / self.pattern.m)) > 1e-6:
            raise ValueError(f"pattern {self.pattern} means target {1 - self.pattern.n / self.pattern.m:g}")
        if self.mode is SparsityMode.PRUNE and not self.target:
            raise ValueError("mode prune needs a target above 0")
        if self.mode is SparsityMode.PRUNE and self.method == "second-order":
            if self.scope == "global":
                raise ValueError("method second-order prunes each tensor to its own share; use scope layer")
            if self.schedule == "gradual" and self.pattern.kind is PatternKind.N_M:
                raise ValueError(
                    f"method second-order prunes {self.pattern} in one step, not gradually; use schedule one-shot"
                )
        if self.begin > self.end:
            raise ValueError("begin must not be after end")
        return self


class DistillationSection(Section):
    """Learning from a teacher (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        teacher: hub id, folder, or ``package:`` path of a model fine-tuned on the same task.
        teacher_revision: as ``model.revision``.
        temperature: softens both logits; the loss is scaled by its square.
        alpha: weight of the teacher's logits in the loss; the weight of the labels is ``1 - alpha``.
        hidden_weight: weight of the mean squared error between hidden states (same width only); 0 switches it off.
    """

    teacher: str
    teacher_revision: str = "main"
    temperature: float = Field(default=2.0, gt=0.0)
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    hidden_weight: float = Field(default=0.0, ge=0.0)


class QatSection(Section):
    """Quantization-aware training: a last phase with fake INT8 quantization and the same keep mask and teacher.

    The defaults are stage 2 of Prune Once For All (Zafrir et al. 2021, arXiv 2111.05754).

    Attributes:
        epochs: passes over the training data.
        max_steps: optimizer steps; overrides ``epochs`` unless -1.
        learning_rate: peak of the schedule.
        warmup: as ``finetune.warmup``, for the steps of this phase.
        observe_steps: steps after which the activation ranges are fixed; a share of all steps when below 1.
    """

    epochs: float = Field(default=2.0, gt=0.0)
    max_steps: int = Field(default=-1, ge=-1)
    learning_rate: float = Field(default=1e-5, gt=0.0)
    warmup: float = Field(default=0.0, ge=0.0)
    observe_steps: float = Field(default=0.5, gt=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> "QatSection":
        if self.max_steps == 0:
            raise ValueError("max_steps 0 trains nothing; omit qat instead")
        return self


class FinetuneSection(Section):
    """Training, with the names of ``transformers.TrainingArguments``.

    Attributes:
        epochs: passes over the training data.
        max_steps: optimizer steps; overrides ``epochs`` unless -1. 0 skips this phase, for a fine-tuned checkpoint
            that needs the ``qat`` phase only.
        learning_rate: peak of the schedule.
        train_batch_size: examples per forward and backward pass, per process.
        eval_batch_size: examples per pass of the evaluation.
        gradient_accumulation_steps: passes per optimizer step.
        weight_decay: AdamW's decay; not applied to biases and LayerNorm.
        adam_beta1, adam_beta2, adam_epsilon: AdamW's constants.
        max_grad_norm: gradients are clipped to this norm; 0 switches clipping off.
        lr_scheduler: schedule of the learning rate after the warm-up.
        warmup: a share of all steps when below 1, a number of steps otherwise.
        precision: ``auto`` trains in bf16 (autocast) if the device computes it: GPUs, and CPUs with AVX512-BF16,
            AMX or Arm's bf16; else in FP32. ``bf16`` and ``fp32`` are used on every device.
        seed: seed of the head's weights, dropout and the order of the examples.
        class_weights: ``balanced`` weights each label of a classification by the inverse of its share of the training
            rows, so that rare and frequent labels have the same influence.
        group_by_length: make batches of examples of similar length, which need less padding.
        save_steps: optimizer steps between resumable checkpoints.
        logging_steps: optimizer steps between two entries of the training history.
        qat: a last phase with fake INT8 quantization; default: none.
    """

    epochs: float = Field(default=3.0, gt=0.0)
    max_steps: int = Field(default=-1, ge=-1)
    learning_rate: float = Field(default=2e-5, gt=0.0)
    train_batch_size: int = Field(default=32, ge=1)
    eval_batch_size: int = Field(default=32, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.0, ge=0.0)
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    adam_beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    adam_epsilon: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup: float = Field(default=0.0, ge=0.0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=42, ge=0, lt=2**32)
    class_weights: Literal["none", "balanced"] = "none"
    group_by_length: bool = True
    save_steps: int = Field(default=500, ge=1)
    logging_steps: int = Field(default=50, ge=1)
    qat: QatSection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "FinetuneSection":
        if self.max_steps == 0 and self.qat is None:
            raise ValueError("max_steps 0 trains nothing without qat; use -1 for whole epochs")
        return self


class Int8Mode(StrEnum):
    """Source of the activation scales of an INT8 model."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    NONE = "none"


class AccuracyTolerance(Section):
    """Largest accuracy drop by INT8; beyond it, ``export`` searches for operators to keep in FP32.

    Attributes:
        metric: a metric of the task; default: the primary metric.
        max_drop: largest allowed drop against PyTorch FP32 of the same checkpoint, in the metric's own unit.
        confidence: confidence of the one-sided bound on the drop, which must be within ``max_drop``.
        on_inconclusive: treatment of a model whose drop is within ``max_drop``, but its bound is not: ``search`` keeps
            more operators in FP32 until the bound is within ``max_drop``; ``accept`` accepts the model, and ``export``
            ends with exit code 4.
        max_trials: largest number of models that the search measures on the complete validation split.
        sensitivity_rows: number of validation rows on which each operator's share of the error is measured.
    """

    metric: str | None = None
    max_drop: float = Field(gt=0.0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    on_inconclusive: Literal["search", "accept"] = "search"
    max_trials: int = Field(default=16, ge=1)
    sensitivity_rows: int = Field(default=64, ge=1)


class QuantizationSection(Section):
    """INT8.

    Attributes:
        mode: ``static`` calibrates on training text (Neural Compressor); ``dynamic`` computes the scales of each batch
            at run time (ONNX Runtime's quantizer).
        calibration_samples: training examples used for calibration.
        calibration_batch_size: largest number of examples per calibration batch; a batch holds one length, because
            padding would widen the ranges.
        observer: ``minmax`` uses the complete range of the calibration text, ``percentile`` drops the rarest values at
            both ends, ``kl`` is Neural Compressor's histogram search (least loss of information).
        percentile: share of the values that ``percentile`` keeps, in percent.
        smoothing: share of a layer's activation outliers that is moved into its weights (SmoothQuant's alpha); 0 is
            off.
        weight_rounding: rounding of static INT8 weights: ``nearest``, or ``compensated`` on the calibration text
            (GPTQ), which distributes each rounding error over weights that are rounded later; zeros stay zeros.
        seed: seed of the draw of training examples.
        exclude: module names (substrings) that stay FP32.
        target_cpu: the CPUs on which the INT8 files are exact. CPUs without VNNI add two products of u8 and s8 in 16
            bits, which can saturate. ``any``: every x86 CPU; a row of weights is scaled down if two neighbours could
            saturate. ``avx2``: every x86 CPU by 7-bit weights, for any pairing of inputs in a runtime. ``vnni``: only
            CPUs with AVX512-VNNI, AVX-VNNI or AMX, with all 8 bits. ``auto``: ``vnni`` if the CPU of this machine has
            one of these, else ``any``.
        accuracy: search for the fastest model within a tolerance; default: no search.
    """

    mode: Int8Mode = Int8Mode.STATIC
    calibration_samples: int = Field(default=256, ge=1)
    calibration_batch_size: int = Field(default=8, ge=1)
    observer: Literal["minmax", "percentile", "kl"] = "minmax"
    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    smoothing: float = Field(default=0.8, ge=0.0, le=1.0)
    weight_rounding: Literal["nearest", "compensated"] = "nearest"
    seed: int = Field(default=42, ge=0, lt=2**32)
    exclude: tuple[str, ...] = ()
    target_cpu: Literal["any", "vnni", "avx2", "auto"] = "any"
    accuracy: AccuracyTolerance | None = None


class Target(StrEnum):
    """Files that ``export`` can write in addition to the ONNX files."""

    OPENVINO = "openvino"
    SPARSE = "sparse"
    OPENVINO_SPARSE = "openvino-sparse"


class SparseTargetSection(Section):
    """``model_sparse.onnx``: INT8 with this package's sparse operators, for ONNX Runtime.

    Attributes:
        enabled: write the file; default: it is written if the recipe requires zeros and INT8 is on.
        openvino: also write it as IR, ``openvino_sparse.xml``, for OpenVINO with this package's extension, which must
            be built.
        source: ``fp32`` quantizes the weights of ``model.onnx``, per output channel; ``int8`` uses the integers of a
            static ``model_int8.onnx``, whose weights are smoothed for static activations, which is less accurate.
        activations: ``dynamic`` computes a scale per token; ``static`` uses the calibrated scales of the int8 source,
            and dynamic scales for smoothed inputs.
    """

    enabled: bool | None = None
    openvino: bool = False
    source: Literal["fp32", "int8"] = "fp32"
    activations: Literal["dynamic", "static"] = "dynamic"

    @model_validator(mode="after")
    def _consistent(self) -> "SparseTargetSection":
        if self.activations == "static" and self.source != "int8":
            raise ValueError("activations static needs source int8, whose file has the calibrated scales")
        if self.openvino and self.enabled is False:
            raise ValueError("openvino is made from model_sparse.onnx; omit enabled: false")
        return self


class ExportSection(Section):
    """The exported files.

    Attributes:
        opset: ONNX operator set.
        atol: largest allowed difference of any FP32 logit from PyTorch.
        int8_agreement: smallest allowed share of parity rows on which INT8 predicts the same as FP32.
        openvino: also write OpenVINO IR.
    """

    opset: int = Field(default=20, ge=17, le=23)
    atol: float = Field(default=1e-4, gt=0.0)
    int8_agreement: float = Field(default=0.9, ge=0.0, le=1.0)
    openvino: bool = True
    sparse: SparseTargetSection = SparseTargetSection()


class BenchSection(Section):
    """Settings of the measurements.

    Attributes:
        runtimes: runtimes to measure, if installed; ``sparse`` is ONNX Runtime with this package's sparse operators,
            ``openvino-sparse`` OpenVINO with them.
        precisions: precisions to measure.
        blocks: interleaved latency blocks per cell.
        block_seconds: measured seconds per block.
        warmup_seconds: upper limit of the warm-up of one cell.
        throughput_batch_size: batch of the offline scenario.
        shapes: extra fixed shapes as ``[batch, tokens]``.
        threads: intra-op threads; default: the container's CPU quota.
        hints: performance hints of the runtimes. All figures are measured with ``latency``. With ``throughput`` the
            offline scenario also runs in streams, which share the threads, if the runtime has them (OpenVINO).
    """

    runtimes: tuple[Literal["pytorch", "onnxruntime", "openvino", "sparse", "openvino-sparse"], ...] = (
        "pytorch", "onnxruntime", "openvino", "sparse", "openvino-sparse",
    )  # fmt: skip
    precisions: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
    blocks: int = Field(default=5, ge=2)
    block_seconds: float = Field(default=1.0, gt=0.0)
    warmup_seconds: float = Field(default=5.0, gt=0.0)
    throughput_batch_size: int = Field(default=32, ge=1, le=MAX_BATCH)
    shapes: tuple[tuple[int, int], ...] = ()
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    hints: tuple[Literal["latency", "throughput"], ...] = ("latency", "throughput")

    @model_validator(mode="after")
    def _consistent(self) -> "BenchSection":
        if "latency" not in self.hints:
            raise ValueError("hints needs latency, with which all other figures are measured")
        return self


class Goal(Section):
    """One goal, with the terms of Olive and MLPerf.

    Attributes:
        metric: a task metric (``accuracy``, ``f1`` ...), or a figure without a test: ``sparsity``,
            ``agreement`` (share of equal predictions), ``logit_difference`` (largest), ``file_size_ratio`` and
            ``latency_ratio`` against the baseline cell; ``logit_drift`` and ``agreement_drift`` of a cell against its
            own predictions in the stored baseline of ``bench --against``.
        type: ``max-degradation``: at most ``value`` below the baseline, in the metric's own unit;
            ``percent-of-baseline``: at least ``value`` percent of the baseline; ``threshold``: at least ``value``;
            ``at-most``: no more than ``value``. The first two are paired tests on task metrics with the
            verdicts pass, fail and inconclusive. The others compare the measured figure.
        value: the bound. Metrics are shares (0 to 1) except SQuAD's (0 to 100).
        confidence: confidence of a paired test; default: ``gate.confidence``.
        runtimes, precisions: cells to which the goal applies; empty means all.
    """

    metric: str
    type: Literal["threshold", "at-most", "max-degradation", "percent-of-baseline"]
    value: float
    confidence: float | None = Field(default=None, gt=0.5, lt=1.0)
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


class GateSection(Section):
    """Settings of the tests of goals.

    Attributes:
        confidence: confidence of the one-sided bounds for pass and fail.
        correction: ``holm`` limits the probability of any false pass over all goals and cells to ``1 - confidence``,
            and likewise that of any false fail; ``none`` limits it for each goal separately.
        on_inconclusive: ``more-rows`` ends ``bench`` with exit code 4 and prints the number of rows needed, ``fail``
            ends it with 3, ``warn`` with 0.
        resamples: resamples of the bootstrap of F1, exact match and correlations.
        seed: seed of the bootstrap.
        quiet_machine: no other work runs on this machine, so a goal on ``latency_ratio`` can fail; otherwise such a
            goal is informational.
    """

    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    correction: Literal["holm", "none"] = "holm"
    on_inconclusive: Literal["more-rows", "fail", "warn"] = "more-rows"
    resamples: int = Field(default=10_000, ge=1_000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    quiet_machine: bool = False


class Reference(Section):
    """A published figure that the recipe should reach, with its source.

    Attributes:
        metrics: published numbers, in the unit of the source.
        source: the publication.
        note: differences from this recipe.
    """

    metrics: dict[str, float]
    source: str
    note: str = ""


class Recipe(Section):
    """A recipe.

    Attributes:
        name: name of the output folders; the name of the file without ``.yaml``.
        description: one line for readers.
        task: a name (a GLUE task, ``squad``, ``squad_v2``, or ``demo``, the text inside the package) or a description;
            default: the task in the model's ``config.json``.
        goals: goals of ``bench``; a missed goal ends it with exit code 3.
        reference: published figures to compare with; nothing is enforced.
    """

    name: str = "model"
    description: str = ""
    task: TaskSection | KnownTask | None = None
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    sparsity: SparsitySection = SparsitySection()
    distillation: DistillationSection | None = None
    finetune: FinetuneSection = FinetuneSection()
    export: ExportSection = ExportSection()
    quantization: QuantizationSection = QuantizationSection()
    bench: BenchSection = BenchSection()
    gate: GateSection = GateSection()
    goals: tuple[Goal, ...] = ()
    reference: tuple[Reference, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.wants_sparse_file and self.export.sparse.source == "int8" and self.quantization.mode != Int8Mode.STATIC:
            raise ValueError("export.sparse.source int8 needs quantization.mode static; use source fp32")
        if self.finetune.max_steps == 0 and self.sparsity.mode is SparsityMode.PRUNE:
            raise ValueError("sparsity.mode prune needs training steps; finetune.max_steps is 0")
        return self

    @property
    def described_task(self) -> TaskSection | None:
        """The description in ``task``; None if ``task`` is a name or omitted."""
        return self.task if isinstance(self.task, TaskSection) else None

    @property
    def wants_sparse_file(self) -> bool:
        """Whether ``export`` writes ``model_sparse.onnx``."""
        if self.export.sparse.enabled is not None:
            return self.export.sparse.enabled
        promised = self.sparsity.pattern.kind is not PatternKind.DENSE
        return promised and self.quantization.mode is not Int8Mode.NONE
