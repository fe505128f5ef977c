# SPDX-License-Identifier: Apache-2.0
"""Measured speed of the sparse operators against the dense runtimes, by instruction set.

``recorded_speed.json`` is written by ``benchmarks/results_markdown.py`` from the records of ``RESULTS.md``.
"""

from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, TypeAdapter

_FILE = "recorded_speed.json"
# Sets with equal INT8 kernels.
_SAME_SET = {"avx512_bf16": "avx512_vbmi"}


class RecordedSpeed(BaseModel):
    """One measured encoder; all its times are of one interleaved run.

    Attributes:
        cpu: model of the CPU.
        instruction_set: instruction set of the kernels.
        forced: whether the CPU has a better set; other runtimes would use it, so they were not measured.
        model: size of the encoder: ``base`` and ``large`` are BERT's, ``minilm`` has 6 layers of 384.
        pattern: pattern of its zeros: ``dense``, ``unstructured``, ``1:2``, ``block_4x1``, ``block_1x4``.
        zero_share: of its encoder weights.
        batch, tokens: shape of the requests.
        milliseconds: median time by runtime: ``ours``, ``own_dense`` (all weights in the dense layout of the same set),
            ``onnxruntime_int8``, ``openvino_int8``.
        best_dense: the fastest dense runtime of any precision; empty if only ``own_dense`` was measured.
        speedup: speed-up over it, or over ``own_dense`` if a set was forced; with its 95 % interval.
        command: command of the measurement.
        date: date of the measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    instruction_set: str
    forced: bool
    model: str
    pattern: str
    zero_share: float
    batch: int
    tokens: int
    milliseconds: dict[str, float]
    best_dense: str
    speedup: float
    interval: tuple[float, float]
    command: str
    date: str


@cache
def recorded_speeds() -> tuple[RecordedSpeed, ...]:
    """All recorded speeds."""
    text = resources.files("sparse_deploy.inspection").joinpath(_FILE).read_text(encoding="utf-8")
    return TypeAdapter(tuple[RecordedSpeed, ...]).validate_json(text)


def nearest_speed(
    instruction_set: str, pattern: str, zero_share: float, speeds: tuple[RecordedSpeed, ...] | None = None
) -> RecordedSpeed | None:
    """The recorded encoder nearest to a model: equal set and pattern, then the nearest share of zeros.

    Args:
        instruction_set: instruction set of the kernels on this CPU.
        pattern: pattern of the model's zeros.
        zero_share: of its encoder weights.
        speeds: records to search; default: :func:`recorded_speeds`.

    Returns:
        Requests of 128 tokens and the largest model are preferred; None without a record of set and pattern.
    """
    wanted = _SAME_SET.get(instruction_set, instruction_set)
    found = [
        speed
        for speed in (recorded_speeds() if speeds is None else speeds)
        if _SAME_SET.get(speed.instruction_set, speed.instruction_set) == wanted and speed.pattern == pattern
    ]
    return min(found, key=lambda speed: (abs(speed.zero_share - zero_share), _unusual(speed)), default=None)


def _unusual(speed: RecordedSpeed) -> tuple[bool, ...]:
    return speed.forced, speed.model != "base", speed.batch != 1, speed.tokens != 128
