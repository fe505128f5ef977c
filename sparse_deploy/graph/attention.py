# SPDX-License-Identifier: Apache-2.0
"""Matching of multi-head attention between three linear layers and the next one, by its results.

Exporters write it in many forms: with the scale on q, on k, on both as its square root or inside an Attention node;
with the keys transposed by one node or by seven nodes of shape arithmetic. Therefore edges determine only its inputs
and outputs; the subgraph between them is run on random numbers of at least two shapes and must agree with the
operator's attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparse_deploy.graph.linears import Linear
from sparse_deploy.graph.matching import NoMatchError, Subgraph, ancestors
from sparse_deploy.graph.weights import constant
from sparse_deploy.kernels.reference import attention

Array = NDArray[Any]
ANCHORS = ("Softmax", "Attention")
# batch, sequence: different from each other and from head sizes. Dynamic axes must work for both shapes.
_PROBES = ((2, 5), (3, 7))
_LONGEST_PROBE = 7
# Sums of 1000 float32 products of magnitude 1 in another order differ by 1e-5; a scale that is wrong by 1 % by 5e-3.
_SAME = 2e-4
# Largest searched window of local attention (a comparison of distances with a constant).
_WIDEST_WINDOW = 1024
_COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
# Scores of masked keys are lower than this.
_EXCLUDED = -1e30
# Nodes between a bias and the attention weights: sums, reshapes and those of the mask.
_MOST_STEPS = 24
_MOST_SUMMANDS = 8


@dataclass(frozen=True)
class Attention:
    """A match.

    Attributes:
        query, key, value: the three layers before it; three times the same layer if it has all three outputs.
        mask: graph input ``[batch, sequence]``, 1 for a token and 0 for padding.
        heads: number of heads.
        bias: the summand of the scores other than the mask, ``[1 or batch, heads, sequence, sequence]`` or
            ``[heads * batch, sequence, sequence]``, computed before the layer; None for none.
        scale: factor of the scores; None means 1 / sqrt(head size).
        positions: cosines and sines of rotary positions, ``[sequence, head]`` after dimensions of 1.
        window: largest distance of tokens that attend to each other; 0 means no limit.
    """

    query: Linear
    key: Linear
    value: Linear
    mask: ir.Value
    heads: int
    bias: ir.Value | None = None
    scale: float | None = None
    positions: tuple[ir.Value, ir.Value] | None = None
    window: int = 0

    @property
    def packed(self) -> bool:
        """Whether one layer computes queries, keys and values."""
        return self.query is self.key


def match_attention(
    anchor: ir.Node, context: ir.Value, x: ir.Value, linears: Sequence[Linear], graph_inputs: Sequence[ir.Value]
) -> Attention:
    """Match the subgraph between ``x`` and ``context``.

    Args:
        anchor: the Softmax or Attention node.
        context: input of the attention's output layer.
        x: input of queries, keys and values.
        linears: linear layers that read ``x``.
        graph_inputs: inputs of the model.

    Raises:
        NoMatchError: it is not an attention of three linear layers, or differs from the operator's.
    """
    outputs = [linear.output for linear in linears]
    nodes, leaves = ancestors([context], stop=[*outputs, x])
    sources = [linear for linear in linears if linear.output in leaves]
    packed = len(sources) == 1 and sources[0].shape[0] == 3 * sources[0].shape[1]
    if anchor not in nodes or (len(sources) != 3 and not packed):
        raise NoMatchError(f"expected attention over three linear layers of one input, found {len(sources)}")
    if len({linear.shape for linear in sources}) != 1:
        raise NoMatchError("query, key and value have different widths")
    match = _Match(anchor, context, x, sources, graph_inputs, nodes)
    try:
        return match.plain()
    except NoMatchError as reason:
        for bias in _summands(anchor, [*outputs, x]):
            try:
                return match.biased(bias)
            except NoMatchError:
                continue
        raise reason from None


@dataclass(frozen=True)
class _Match:
    """The properties of an attention before its nodes are run."""

    anchor: ir.Node
    context: ir.Value
    x: ir.Value
    sources: Sequence[Linear]
    graph_inputs: Sequence[ir.Value]
    nodes: Sequence[ir.Node]

    def plain(self) -> Attention:
        """Attention without a bias.

        Raises:
            NoMatchError: it has another form.
        """
        mask = _mask(self.anchor, [*(linear.output for linear in self.sources), self.x], self.graph_inputs)
        tables = self._positions()
        probe = self._probe(outputs=tables)
        heads, order, window = 0, (0, 1, 2), 0
        for batch, sequence in self._probes():
            numbers = _numbers(batch, sequence, self.sources, self.x, self.graph_inputs, mask)
            found, inside, *positions = probe.run(numbers)
            heads = heads or _heads(inside, batch, self._hidden)
            scores = inside if self.anchor.op_type == "Softmax" else None
            if sequence > _LONGEST_PROBE and scores is not None:
                window = _window(scores)
            order = _order(
                found, self._qkv(numbers), numbers[mask], heads, scores,
                positions=_tables(positions, sequence, self._hidden // heads), window=window,
            )  # fmt: skip
        query, key, value = self._in_order(order)
        return Attention(query, key, value, mask, heads, positions=tables or None, window=window)  # type: ignore[arg-type]

    def biased(self, bias: ir.Value) -> Attention:
        """Attention with one of its summands as the bias, for any source of the bias.

        Raises:
            NoMatchError: it is not an attention with this bias.
        """
        outputs = [linear.output for linear in self.sources]
        mask = _mask(self.anchor, [*outputs, self.x, bias], self.graph_inputs)
        probe = self._probe(bias)
        heads, scale, order = 0, 0.0, (0, 1, 2)
        for batch, sequence in _PROBES:
            numbers = _numbers(batch, sequence, self.sources, self.x, self.graph_inputs, mask)
            qkv = self._qkv(numbers)
            _, inside = probe.run({**numbers, bias: np.zeros((1, 1, 1), np.float32)})
            heads = heads or _heads(inside, batch, self._hidden)
            scale = scale or _found_scale(inside, qkv, heads) or 0.0
            added = np.random.default_rng(1).normal(size=(batch, heads, sequence, sequence)).astype(np.float32)
            try:
                found, _ = probe.run({**numbers, bias: added})
            except NoMatchError:  # heads and batch may be merged at the addition
                found, _ = probe.run({**numbers, bias: added.reshape(-1, sequence, sequence)})
            order = _order(found, qkv, numbers[mask], heads, None, scale=scale, bias=added)
        query, key, value = self._in_order(order)
        usual = abs(scale * (self._hidden // heads) ** 0.5 - 1) < _SAME
        return Attention(query, key, value, mask, heads, bias, None if usual else scale)

    def _probe(self, *more: ir.Value, outputs: Sequence[ir.Value] = ()) -> Subgraph:
        given = [*(linear.output for linear in self.sources), self.x, *more, *self.graph_inputs]
        return Subgraph([self.context, _first_input(self.anchor), *outputs], given)

    @property
    def _hidden(self) -> int:
        """Width of the queries."""
        return self.sources[0].shape[0] * len(self.sources) // 3

    def _qkv(self, numbers: Mapping[ir.Value, Array]) -> list[Array]:
        """Query, key and value in the order of the layers, or of the rows of one layer."""
        outputs = [numbers[linear.output] for linear in self.sources]
        return outputs if len(outputs) == 3 else np.split(outputs[0], 3, axis=-1)

    def _in_order(self, order: Sequence[int]) -> tuple[Linear, Linear, Linear]:
        if len(self.sources) == 1:
            if tuple(order) != (0, 1, 2):
                raise NoMatchError("the rows of a layer of queries, keys and values are in another order")
            packed = self.sources[0]
            return packed, packed, packed
        query, key, value = (self.sources[place] for place in order)
        return query, key, value

    def _positions(self) -> tuple[ir.Value, ...]:
        """Cosines and sines of the attention; empty if there are none."""
        found = [[node.outputs[0] for node in self.nodes if node.op_type == kind] for kind in ("Cos", "Sin")]
        if not any(found):
            return ()
        if [len(values) for values in found] != [1, 1]:
            raise NoMatchError(f"expected one cosine and one sine of positions, found {found}")
        return found[0][0], found[1][0]

    def _probes(self) -> list[tuple[int, int]]:
        """Sizes of the batches to run. The first is longer than the widest searched window."""
        numbers = [
            abs(float(tensor.numpy().item()))
            for node in self.nodes if node.op_type in _COMPARISONS
            for tensor in map(constant, node.inputs) if tensor is not None and tensor.size == 1
        ]  # fmt: skip
        widest = max((int(number) for number in numbers if number <= _WIDEST_WINDOW), default=0)
        return [*([(1, widest + 2)] if widest + 2 > _LONGEST_PROBE else []), *_PROBES]


def _summands(anchor: ir.Node, stop: Sequence[ir.Value]) -> list[ir.Value]:
    """Computed values that are added before the attention weights, nearest first."""
    found: dict[ir.Value, None] = {}
    waiting, seen = [anchor], {anchor}
    for node in waiting:
        for source in node.inputs:
            if source is None or source in stop:
                continue
            producer = source.producer()
            if producer is None:
                continue
            if node.op_type == "Add":
                found.setdefault(source)
            if producer not in seen and len(waiting) < _MOST_STEPS:
                seen.add(producer)
                waiting.append(producer)
    return list(found)[:_MOST_SUMMANDS]


def _mask(anchor: ir.Node, stop: Sequence[ir.Value], graph_inputs: Sequence[ir.Value]) -> ir.Value:
    """The one graph input whose values (not only its shape) reach the attention weights."""
    reached: set[ir.Value] = set()
    stack, seen = [value for value in anchor.inputs if value is not None], set(stop)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if value in graph_inputs:
            reached.add(value)
        elif node is not None and node.op_type not in ("Shape", "Size"):
            stack.extend(source for source in node.inputs if source is not None)
    names = sorted(str(value.name) for value in reached)
    if len(names) != 1:
        raise NoMatchError(f"expected one attention mask among the model's inputs, found {', '.join(names) or 'none'}")
    mask = reached.pop()
    if mask.dtype != ir.DataType.INT64 or mask.shape is None or len(mask.shape) != 2:
        raise NoMatchError(f"the mask {mask.name} is {mask.dtype} {mask.shape}, expected int64 [batch, sequence]")
    return mask


def _first_input(anchor: ir.Node) -> ir.Value:
    value = anchor.inputs[0]
    if value is None:
        raise NoMatchError(f"{anchor.op_type} has no input")
    return value


def _numbers(
    batch: int, sequence: int, linears: Sequence[Linear], x: ir.Value, inputs: Sequence[ir.Value], mask: ir.Value
) -> dict[ir.Value, Array]:
    random = np.random.default_rng(batch)
    numbers: dict[ir.Value, Array] = {value: np.zeros((batch, sequence), np.int64) for value in inputs}
    padded = np.arange(sequence) < sequence - np.arange(batch)[:, None]
    numbers[mask] = padded.astype(np.int64)
    for linear in linears:
        numbers[linear.output] = random.normal(size=(batch, sequence, linear.shape[0])).astype(np.float32)
    # Independent random numbers, so that an attention that also reads its input, besides q, k and v, does not match.
    numbers[x] = random.normal(size=(batch, sequence, linears[0].shape[1])).astype(np.float32)
    return numbers


def _heads(inside: Array, batch: int, hidden: int) -> int:
    """Number of heads, from the shape ``[batch, heads, ...]`` of the attention's values."""
    if inside.ndim != 4 or inside.shape[0] != batch or hidden % inside.shape[1]:
        raise NoMatchError(f"expected attention on [{batch}, heads, ...], found {list(inside.shape)}")
    return int(inside.shape[1])


def _order(
    found: Array,
    qkv: Sequence[Array],
    mask: Array,
    heads: int,
    scores: Array | None,
    *,
    scale: float = 0.0,
    bias: Array | None = None,
    positions: tuple[Array, Array] | None = None,
    window: int = 0,
) -> tuple[int, int, int]:
    """The order of q, k and v among the three inputs.

    Raises:
        NoMatchError: no order of the inputs matches.
    """
    worst = np.inf
    for query, key, value in permutations(range(3)):
        expected = attention(
            qkv[query], qkv[key], qkv[value], mask, heads, scale=scale, bias=bias, positions=positions, window=window
        )
        difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if difference < _SAME:
            return query, key, value
        worst = min(worst, float(difference))
    head = qkv[0].shape[-1] // heads
    other = None if scores is None else _found_scale(scores, qkv, heads)
    if other is not None and abs(other * head**0.5 - 1) > 1e-3:
        raise NoMatchError(f"the scores are scaled by {other:.4g}, expected 1/sqrt({head}) = {head**-0.5:.4g}")
    raise NoMatchError(
        f"it is not softmax(q · kᵀ / sqrt({head}) + mask) · v per head: differs by {worst:.2g} on random numbers"
    )


def _window(scores: Array) -> int:
    """The window: largest distance of unmasked scores in a sequence without padding; 0 if none is masked."""
    near = np.argwhere(scores[0, 0] > _EXCLUDED)
    widest = int(np.abs(near[:, 0] - near[:, 1]).max(initial=0))
    return 0 if widest == scores.shape[-1] - 1 else widest


def _tables(found: Sequence[Array], sequence: int, head: int) -> tuple[Array, Array] | None:
    """Cosines and sines as ``[sequence, head]``."""
    if not found:
        return None
    for table in found:
        if table.shape[-2:] != (sequence, head) or table.size != sequence * head:
            raise NoMatchError(f"expected cosines and sines [1, {sequence}, {head}], found {list(table.shape)}")
    cos, sin = (table.reshape(sequence, head) for table in found)
    return cos, sin


def _found_scale(scores: Array, qkv: Sequence[Array], heads: int) -> float | None:
    """The factor between ``q · kᵀ`` and the scores of the first row, which has no padding; None if none fits."""
    split = [x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in qkv]
    for query, key in permutations(split, 2):
        product = query[0] @ key[0].transpose(0, 2, 1)
        if product.shape == scores[0].shape:
            with np.errstate(all="ignore"):  # an invalid mask gives infinite scores
                factor = float((scores[0] * product).sum() / np.square(product).sum())
                if np.abs(scores[0] - factor * product).max() < _SAME * max(1.0, abs(factor)):
                    return factor
    return None
