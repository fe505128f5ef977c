# SPDX-License-Identifier: Apache-2.0
"""Choice of the queued sequences of a batch. The oldest is always included, which limits each waiting time.

The time of a batch is an overhead plus a time per token; the time of padding depends on the runtime. bert-base, 70 %
sparse, CPU time on one busy core of Zen 4, least squares: over 156 shapes of 1 to 32 sequences of 5 to 60 tokens for
`sparse`, over 15 shapes for the others. The padding of `sparse` is from the same tokens with and without it in three
mixtures (3.5 to 5 us); the fits left it between 0 and 0.026 ms.

| runtime (INT8) | overhead | token | padding token |
|---|---|---|---|
| sparse | 0.9 ms | 0.23 ms | 0.004 ms |
| openvino-sparse | 2.1 ms | 0.25 ms | 0.007 ms |
| onnxruntime | 5.9 ms | 0.65 ms | 0.56 ms |
| openvino | 7.1 ms | 0.48 ms | 0.55 ms |
"""

from collections.abc import Sequence

# If a padding token takes 1/60 of a token's time, this amount adds 3 %. Without a limit, a mix of many short and a few
# long texts would be slower.
_MOST_SKIPPED_PADDING = 2 / 3


def choose_rows(lengths: Sequence[int], max_batch: int, overhead: float | None) -> list[int]:
    """The sequences of the next batch.

    Args:
        lengths: tokens of each queued sequence, oldest first; at least one.
        max_batch: largest number of rows.
        overhead: the fixed time of a batch, as the number of tokens that take the same time, for a runtime that
            computes padding like tokens; None for one that skips padding.

    Returns:
        Indices, including 0, the oldest.
    """
    return _oldest(lengths, max_batch) if overhead is None else _alike(lengths, max_batch, overhead)


def _oldest(lengths: Sequence[int], max_batch: int) -> list[int]:
    """The oldest rows first: padding takes no time, so the order only affects waiting times."""
    chosen: list[int] = []
    tokens = longest = 0
    for index, length in enumerate(lengths):
        if len(chosen) == max_batch:
            break
        padded = (len(chosen) + 1) * max(longest, length)
        if padded - tokens - length <= _MOST_SKIPPED_PADDING * padded:
            chosen.append(index)
            tokens, longest = tokens + length, max(longest, length)
    return chosen


def _alike(lengths: Sequence[int], max_batch: int, overhead: float) -> list[int]:
    """The neighbours in length of the oldest row, one at a time, until the time per token would increase.

    Choosing the best of all windows around the oldest row would leave rows of less similar lengths in the queue, which
    was slower in a simulation of 32 clients.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    low = order.index(0)
    high = low + 1
    tokens = lengths[0]
    per_token = (overhead + tokens) / tokens
    while high - low < max_batch:
        wider = []
        for added, begin, end in ((low - 1, low - 1, high), (high, low, high + 1)):
            if 0 <= added < len(order):
                total = tokens + lengths[order[added]]
                padded = (end - begin) * lengths[order[end - 1]]
                wider.append(((overhead + padded) / total, total, begin, end))
        if not wider or min(wider)[0] > per_token:
            break
        per_token, tokens, low, high = min(wider)
    return order[low:high]
