# SPDX-License-Identifier: Apache-2.0
"""Results of a benchmark: the typed content of ``report.json``, used for measuring and for reporting."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from sparse_deploy.config.schema import Goal, Reference
from sparse_deploy.machine import Machine
from sparse_deploy.sparsity.statistics import SparsityRecord

REPORT_SCHEMA_VERSION: Final = 1


class Figures(BaseModel):
    """Base of every part of a report; NaN is written as the text "NaN", because JSON has no such number."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Conditions(Figures):
    """The state of the machine during the blocks of one measurement.

    Attributes:
        cores: distance of two cores: ``near`` if a cache line takes less than 80 ns from one to the other, ``far`` if
            it takes longer, ``mixed`` if that changed, ``unknown`` if it could not be measured.
        measured: number of measured blocks.
        counted: number of blocks that count; all of them if too few were undisturbed.
        disturbed: number of blocks during which other processes used the CPUs.
        moved: number of other blocks during which the cores had the other distance, or it changed.
    """

    cores: str
    measured: int
    counted: int
    disturbed: int
    moved: int


class Latency(Figures):
    """Single-stream latency over interleaved blocks, in milliseconds per request.

    Attributes:
        cv: coefficient of variation of the block medians (spread between blocks, not between requests).
        samples_ms: milliseconds of every request, in order; used for plots, not in the Markdown.
        rounds: round of each block, by which blocks of two cells are paired. Empty in reports of earlier versions.
        conditions: conditions of the blocks; None in reports of earlier versions.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    cv: float
    requests: int
    block_medians_ms: tuple[float, ...]
    samples_ms: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()
    conditions: Conditions | None = None


class Throughput(Figures):
    """Offline throughput: examples per second, batched by length, one figure per interleaved block.

    Attributes:
        conditions: as for :class:`Latency`.
    """

    examples_per_second: float
    tokens_per_second: float
    cv: float
    batch_size: int
    blocks: tuple[float, ...]
    conditions: Conditions | None = None


class Ratio(Figures):
    """A speed-up over another cell: the median over rounds of paired blocks, and its bootstrap interval."""

    value: float
    low: float
    high: float
    confidence: float


class StreamedThroughput(Throughput):
    """Offline throughput with the throughput hint: the same batches, several at a time.

    Attributes:
        streams: number of parallel batches, which share the threads.
        gain: gain over the throughput of the same cell with the latency hint, in the same rounds.
    """

    streams: int
    gain: Ratio


class ShapeLatency(Figures):
    """Latency of one fixed shape."""

    batch: int
    tokens: int
    latency: Latency
    speedup: Ratio | None = None


class Drift(Figures):
    """Difference of a cell's predictions from the stored predictions of the same cell (``bench --against``).

    Attributes:
        agreement: share of examples with equal predictions; None for a regression.
        logit_difference: largest absolute difference of a logit; for SQuAD see :attr:`Cell.logit_difference`.
    """

    agreement: float | None
    logit_difference: float | None


class Cell(Figures):
    """One runtime x precision.

    Attributes:
        id: ``RUNTIME-PRECISION``, such as ``onnxruntime-int8``.
        file: the model file, relative to the deployment.
        note: a remark on the cell's model; empty for most cells.
        warning: a problem of the cell, such as INT8 for other CPUs.
        metrics: task metrics over the complete validation split (shares 0 to 1; SQuAD 0 to 100).
        agreement: share of examples with the same prediction as the baseline cell.
        logit_difference: largest absolute difference of a logit from the baseline cell's, over all examples. For SQuAD
            only the highest start and end logit of each question are compared, so the true value may be larger.
        drift: difference from the cell's stored predictions, if ``--against`` has them from the same checkpoint.
        load_ms: time to open the file in a new process.
        first_inference_ms: time of the first request.
        rss_bytes: resident memory after the warm-up.
        speedup: median latency of the baseline's blocks divided by that of this cell's, in the same rounds.
        throughput_gain: throughput of this cell divided by that of the baseline.
        streamed: throughput with the throughput hint, if the runtime has one; other figures use the latency hint.
        stable: false if the blocks differ too much for a reliable figure.
        predictions: file with per-example predictions, relative to the report.
    """

    id: str
    runtime: str
    precision: str
    file: str
    note: str = ""
    warning: str = ""
    version: str = ""
    metrics: dict[str, float]
    agreement: float | None = None
    logit_difference: float | None = None
    drift: Drift | None = None
    latency: Latency | None = None
    throughput: Throughput | None = None
    shapes: tuple[ShapeLatency, ...] = ()
    load_ms: float | None = None
    first_inference_ms: float | None = None
    file_bytes: int = 0
    rss_bytes: int | None = None
    sparsity: SparsityRecord | None = None
    speedup: Ratio | None = None
    throughput_gain: Ratio | None = None
    streamed: StreamedThroughput | None = None
    stable: bool = True
    instability: str = ""
    predictions: str = ""


class Evidence(Figures):
    """Result of the paired test of a drop of a metric against the baseline (positive: the cell is worse).

    Attributes:
        drop: baseline minus cell, in the metric's own unit.
        low, high: one-sided bounds on the drop, each at ``confidence``.
        p_pass: p-value of "the drop is larger than the margin", after correction; small means pass.
        p_fail: p-value of "the drop is within the margin", after correction; small means fail.
        rows: compared examples.
        changed: examples with different predictions.
        worse, better: numbers of changed examples with a lower and a higher score.
        method: the test and the interval, in words.
        rows_needed: number of rows needed for a verdict with the same drop; None if decided, or if no number suffices.
    """

    drop: float
    low: float
    high: float
    confidence: float
    p_pass: float
    p_fail: float
    rows: int
    changed: int
    worse: int
    better: int
    method: str
    rows_needed: int | None = None


class GateResult(Figures):
    """The verdict on one goal for one cell.

    Attributes:
        bound: the required value.
        evidence: evidence of a paired test; None if the figures are compared without a test.
        informational: the verdict is shown, but does not count.
    """

    goal: Goal
    cell: str
    value: float | None
    baseline: float | None
    bound: float | None
    verdict: Literal["pass", "fail", "inconclusive"]
    explanation: str
    evidence: Evidence | None = None
    informational: bool = False


class TokenLengths(Figures):
    """Lengths of the validation examples in tokens."""

    minimum: int
    p50: int
    p90: int
    p99: int
    maximum: int
    mean: float


class SplitIdentity(Figures):
    """The identity of a split's rows: their number, and SHA-256 over ids, texts and labels in order."""

    examples: int
    sha256: str


class Identity(Figures):
    """Inputs of the predictions, other than runtime and precision; runs with different inputs are not compared.

    Attributes:
        inputs: the recipe's ``data`` keys that affect the model's input (``max_length``, SQuAD's windows).
        splits: the validation rows, by the suffix of the split's metrics.
        tokenizer_sha256: fingerprint of the tokenizer's behaviour: vocabulary, normalization, special tokens.
        checkpoint_sha256: fingerprint of the PyTorch weights. Different checkpoints on the same rows may be compared.
        batch_size: requests per batch. The scales of dynamic INT8 depend on the rows of a batch, so a drift is measured
            only between equal batch sizes.
    """

    task: str
    inputs: dict[str, int]
    splits: dict[str, SplitIdentity]
    tokenizer_sha256: str
    checkpoint_sha256: str
    batch_size: int


class BenchReport(Figures):
    """``report.json``.

    Attributes:
        identity: fingerprints of the run, for ``bench --against``; None in reports of earlier versions.
        primary_metric: the metric of the table's accuracy column.
        points: points per unit of each task metric: 100 for shares and correlations, 1 for metrics of 0 to 100.
        baseline: id of the baseline cell of speed-ups and degradations.
        settings: threads, blocks, batch sizes, relevant environment variables.
    """

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    created: str
    name: str
    deployment: str
    task: str
    primary_metric: str
    points: dict[str, float] = {}
    examples: int
    baseline: str
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    lengths: TokenLengths
    identity: Identity | None = None
    cells: tuple[Cell, ...]
    gates: tuple[GateResult, ...] = ()
    reference: tuple[Reference, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _units_of_earlier_reports(cls, content: Any) -> Any:
        """Set missing units: older reports are of tasks whose metrics are shares, or of SQuAD v1.1."""
        if isinstance(content, dict) and "points" not in content and content.get("task") == "squad":
            return {**content, "points": {"exact_match": 1.0, "f1": 1.0}}
        return content

    def cell(self, cell_id: str) -> Cell:
        """A cell by id.

        Raises:
            KeyError: unknown id.
        """
        for cell in self.cells:
            if cell.id == cell_id:
                return cell
        raise KeyError(cell_id)
