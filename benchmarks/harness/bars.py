# SPDX-License-Identifier: Apache-2.0
"""Required figures per instruction set: speed-ups of whole encoders, ratios of single kernels, sizes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """Required speed-up of a cell over the best dense baseline, and the goal."""

    must: float
    aim: float


# avx512_bf16 equals avx512_vbmi except for the products of attention that is not in INT8.
_SAME_SET = {"avx512_bf16": "avx512_vbmi"}

# Whole encoders against the best dense baseline of any precision, on a CPU whose best instruction set this is.
_CELL_BARS = {
    "avx512_vbmi": {
        "base-u70-b1-s128": Bar(1.8, 2.5),
        "base-12-b1-s128": Bar(1.45, 2.0),
        "base-b80_4x1-b1-s128": Bar(2.9, 4.0),
        "base-b80_1x4-b1-s128": Bar(2.4, 3.5),
        "large-b80_4x1-b1-s384": Bar(2.7, 4.0),
        "large-b80_1x4-b1-s384": Bar(2.1, 3.3),
        "base-u70-b16-s128": Bar(1.5, 2.2),
        "base-u90-b1-s128": Bar(2.6, 4.0),
        "base-u70-b1-s16": Bar(2.5, 5.0),
        "minilm-u70-b1-s128": Bar(1.4, 2.0),
    },
    "avx2": {
        "base-u70-b1-s128": Bar(1.8, 2.4),
        "base-12-b1-s128": Bar(1.45, 1.9),
        "base-b80_4x1-b1-s128": Bar(2.2, 3.2),
        "base-b80_1x4-b1-s128": Bar(1.9, 3.0),
        "base-u90-b1-s128": Bar(2.4, 4.0),
        "minilm-u70-b1-s128": Bar(1.5, 2.2),
        "base-u70-b1-s16": Bar(1.5, 2.2),
        "base-u70-b16-s128": Bar(1.5, 2.2),
        "base-dense-b1-s128": Bar(1.0, 1.3),
    },
}
# Every cell with a bar for at least one instruction set, in the order of the tables.
CELLS = tuple(dict.fromkeys(cell for bars in _CELL_BARS.values() for cell in bars))

# The sparse operators inside OpenVINO, against the best dense baseline.
_OPENVINO_BARS = {"avx512_vbmi": {"base-u70-b1-s128": 1.6, "base-b80_4x1-b1-s128": 2.3}}

# One kernel on one thread against the dense kernel of the same set, by pattern, at K = 768 … 4096, and the smallest
# number of tokens to which the bar applies: with fewer, both kernels wait for memory.
KERNEL_BARS = {
    "avx512_vbmi": {"u70": 1.9, "12": 1.35, "b80_4x1": 3.6, "b80_1x4": 2.7},
    "avx2": {"u70": 1.9, "12": 1.5, "b80_4x1": 2.4, "b80_1x4": 2.2, "u90": 2.8},
}
KERNEL_BARS_FROM_TOKENS = {"avx512_vbmi": 128, "avx2": 16}

# A serving process.
CREATION_BAR_S = 3.0
SCALING_BAR = 1.8
PACKED_BARS = {"u70": 0.9, "b80_4x1": 0.35, "b80_1x4": 0.35}


def cell_bars(instruction_set: str) -> dict[str, Bar]:
    """Bars of whole encoders, by cell."""
    return _CELL_BARS.get(_SAME_SET.get(instruction_set, instruction_set), {})


def openvino_bars(instruction_set: str) -> dict[str, float]:
    """Bars of the operators inside OpenVINO, by cell."""
    return _OPENVINO_BARS.get(_SAME_SET.get(instruction_set, instruction_set), {})


def kernel_bar(instruction_set: str, pattern: str, k: int, tokens: int) -> float | None:
    """The ratio to the dense kernel that a product must reach; None if no bar was set."""
    instruction_set = _SAME_SET.get(instruction_set, instruction_set)
    least = KERNEL_BARS_FROM_TOKENS.get(instruction_set)
    if least is None or tokens < least or not 768 <= k <= 4096:
        return None
    return KERNEL_BARS[instruction_set].get(pattern)
