# SPDX-License-Identifier: Apache-2.0
"""The candidate (``ours``) against the best of many baselines (``rivals``): figures from interleaved blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sparse_deploy.measurement import pairing
from sparse_deploy.measurement.pairing import CONFIDENCE, clean_blocks, middle_ms, paired_ratio
from sparse_deploy.measurement.statistics import percentile

Block = pairing.Block[str, tuple[float, ...]]


@dataclass(frozen=True)
class Ratio:
    """A speed-up with the interval of a percentile bootstrap over the rounds."""

    value: float
    low: float
    high: float
    rounds: int

    def as_json(self) -> dict[str, Any]:
        """The JSON form for a result file."""
        return {
            "speedup": round(self.value, 3),
            "interval": [round(self.low, 3), round(self.high, 3)],
            "confidence": CONFIDENCE,
            "rounds": self.rounds,
        }


def speedup(ours: Sequence[Block], rival: Sequence[Block], *, seed: int = 0) -> Ratio | None:
    """Median over rounds of the baseline's block median divided by the candidate's; above 1: the candidate is faster.

    Args:
        ours: the candidate's blocks of one label.
        rival: the baseline's blocks of the same label.
        seed: seed of the resampling.

    Returns:
        None if no round has blocks of both.
    """
    before, after = ({block.turn: median(block.result) for block in blocks} for blocks in (rival, ours))
    ratio = paired_ratio(before, after, seed=seed)
    if ratio is None:
        return None
    return Ratio(ratio.value, ratio.low, ratio.high, len(before.keys() & after.keys()))


def quartiles_ms(blocks: Sequence[Block]) -> tuple[float, float]:
    """Lower and upper quartile of all requests (nearest rank)."""
    pooled = [sample for block in blocks for sample in block.result]
    return percentile(pooled, 25), percentile(pooled, 75)


def by_rival(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """Blocks of each runtime, in the order of their first block."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.contestant, []).append(block)
    return found


def is_ours(name: str, ours: str) -> bool:
    """Whether a name is a candidate, in ONNX Runtime or another runtime: ``ours``, ``ours_openvino``."""
    return name == ours or name.startswith(f"{ours}_")


def best_rival(blocks: Mapping[str, Sequence[Block]], ours: str) -> str | None:
    """The baseline with the lowest median; None without a baseline."""
    others = {name: middle_ms(found) for name, found in blocks.items() if not is_ours(name, ours) and found}
    return min(others, key=lambda name: others[name]) if others else None


def comparable_rounds(blocks: Sequence[Block], ours: str) -> int:
    """Rounds with clean blocks of candidate and best baseline (or of the baseline alone), under the best label."""
    counts = [0]
    for found in clean_blocks(blocks).values():
        grouped = by_rival(found)
        best = best_rival(grouped, ours)
        if best is None:
            continue
        turns = {block.turn for block in grouped[best]}
        if ours in by_rival(blocks):
            turns &= {block.turn for block in grouped.get(ours, ())}
        counts.append(len(turns))
    return max(counts)


def contenders(blocks: Sequence[Block], ours: str, within: float, least: int = 2) -> list[str]:
    """The candidate and the baselines that may still be the best, at least ``least`` of them.

    A baseline is dropped if it is slower than ``within`` times the best under every label with clean blocks of it:
    more rounds of a clearly slower baseline change no ratio.
    """
    names = list(by_rival(blocks))
    behind: dict[str, float] = {}
    for found in clean_blocks(blocks).values():
        medians = {name: middle_ms(own) for name, own in by_rival(found).items() if not is_ours(name, ours)}
        if len(medians) < 2:  # nothing to compare with
            continue
        for name, ms in medians.items():
            behind[name] = min(behind.get(name, float("inf")), ms / min(medians.values()))
    # A disturbance at most doubles a time, so the fastest request of disturbed blocks is still usable.
    fastest = {name: min(min(block.result) for block in own) for name, own in by_rival(blocks).items()}
    first = min((ms for name, ms in fastest.items() if not is_ours(name, ours)), default=0.0)
    for name in names:
        behind.setdefault(name, fastest[name] / first / 2 if first else 1.0)
    ranked = sorted((name for name in names if not is_ours(name, ours)), key=lambda name: behind[name])
    kept = [name for name in ranked if behind[name] <= within]
    return [*(name for name in names if is_ours(name, ours)), *(kept if len(kept) >= least else ranked[:least])]
