# SPDX-License-Identifier: Apache-2.0
"""Run a text through an encoder layer by layer, keeping only the hidden states before the current layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparse_deploy.errors import ConfigError
from sparse_deploy.pruning.method import TokenBatch


class _Stop(Exception):  # noqa: N818 - ends a forward pass, not an error
    """Raised in a hook to end a forward pass when the required values are available."""


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers of one encoder layer that read the same input, such as query, key and value.

    Attributes:
        linears: modules by parameter name of their weight.
    """

    linears: dict[str, nn.Linear]

    @property
    def features(self) -> int:
        """Width of the input."""
        return next(iter(self.linears.values())).in_features


@dataclass
class _Call:
    """The arguments of an encoder layer's call, except the hidden states."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


def encoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of the encoder by name: the children of the list with most of the Linear weights.

    Raises:
        ConfigError: there is no such list.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    sizes = {name: _linear_weights(module) for name, module in lists.items()}
    # Use the outermost list, because a layer may contain lists.
    name = max(sizes, key=lambda key: (sizes[key], -len(key)), default="")
    if not lists or 2 * sizes[name] <= _linear_weights(model):
        raise ConfigError(
            f"{type(model).__name__}: expected an encoder with its layers in one list (as in BERT), found none; this "
            f"architecture can't be pruned layer by layer. Use --method magnitude"
        )
    return {f"{name}.{index}": layer for index, layer in enumerate(lists[name])}


class EncoderWalk:
    """Holds the hidden states of a text before one encoder layer, and advances them layer by layer.

    Args:
        model: in eval mode.
        batches: the text.

    Raises:
        ConfigError: the layers are not called once each, in sequence.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, batches: Sequence[TokenBatch]) -> None:
        self.layers = encoder_layers(model)
        self._masks = [batch["attention_mask"].bool() for batch in batches]
        self._calls: list[list[_Call]] = []
        self._hidden: list[torch.Tensor] = []
        for batch in batches:
            first, calls = self._record(model, batch)
            self._hidden.append(first)
            self._calls.append(calls)

    @property
    def tokens(self) -> int:
        """Tokens of the text, without padding."""
        return sum(int(mask.sum()) for mask in self._masks)

    @torch.no_grad()
    def groups(self, depth: int, names: dict[nn.Module, str]) -> list[LinearGroup]:
        """The Linear layers of a layer in execution order, grouped by input.

        Args:
            depth: number of the current layer.
            names: parameter names by module; other modules are ignored.
        """
        seen: list[tuple[nn.Module, torch.Tensor]] = []
        layer = list(self.layers.values())[depth]
        wanted = [module for module in layer.modules() if module in names]
        with _hooked(wanted, lambda module, inputs: seen.append((module, inputs))):
            self._run(depth, 0)
        groups: list[tuple[torch.Tensor, dict[str, nn.Linear]]] = []
        for module, inputs in seen:
            assert isinstance(module, nn.Linear)  # noqa: S101 - names has no other modules
            if not groups or groups[-1][0] is not inputs:
                groups.append((inputs, {}))
            groups[-1][1][names[module]] = module
        return [LinearGroup(linears) for _, linears in groups]

    @torch.no_grad()
    def inputs(self, depth: int, module: nn.Module) -> Iterator[torch.Tensor]:
        """The inputs of a module of a layer, ``[tokens, features]`` per batch, without padding."""
        for number, mask in enumerate(self._masks):
            found: list[torch.Tensor] = []

            def keep(_: nn.Module, inputs: torch.Tensor, found: list[torch.Tensor] = found) -> None:
                found.append(inputs)
                raise _Stop

            with _hooked([module], keep), suppress(_Stop):
                self._run(depth, number)
            yield _real_tokens(found[0], mask)

    @torch.no_grad()
    def advance(self, depth: int) -> None:
        """Advance the hidden states through a layer with its current weights."""
        for number in range(len(self._hidden)):
            self._hidden[number] = self._run(depth, number)

    def hidden(self, number: int) -> torch.Tensor:
        """The hidden states of a batch before the current layer, ``[tokens, hidden]``, without padding."""
        return _real_tokens(self._hidden[number], self._masks[number])

    def _run(self, depth: int, number: int) -> torch.Tensor:
        call = self._calls[number][depth]
        output = list(self.layers.values())[depth](self._hidden[number], *call.positional, **call.named)
        return output if isinstance(output, torch.Tensor) else output[0]

    def _record(self, model: nn.Module, batch: TokenBatch) -> tuple[torch.Tensor, list[_Call]]:
        entered: list[tuple[nn.Module, torch.Tensor, _Call]] = []

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = dict(kwargs)
            hidden = args[0] if args else named.pop("hidden_states", None)
            entered.append((module, hidden, _Call(tuple(args[1:]), named)))

        layers = list(self.layers.values())
        handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
        try:
            model(**batch)
        finally:
            for handle in handles:
                handle.remove()
        if [module for module, _, _ in entered] != layers or not isinstance(entered[0][1], torch.Tensor):
            raise ConfigError(
                f"{type(model).__name__}: expected {len(layers)} encoder layers, each run once and in order on hidden "
                f"states, found {len(entered)} runs; this architecture can't be pruned layer by layer. Use --method "
                f"magnitude"
            )
        return entered[0][1], [call for _, _, call in entered]


@contextmanager
def _hooked(modules: Sequence[nn.Module], see: Callable[[nn.Module, torch.Tensor], None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(lambda m, args: see(m, args[0])) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _real_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if values.shape[:-1] == mask.shape:
        return values[mask]
    return values.reshape(-1, values.shape[-1])  # one row per sequence, or padding already removed


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
