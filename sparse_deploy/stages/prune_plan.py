# SPDX-License-Identifier: Apache-2.0
"""The share of zeros of each matrix: one share for all, or shares by sensitivity for a target, speed or drop."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparse_deploy.config.pruning import PruneSettings
from sparse_deploy.errors import ConfigError, RuntimeUnavailableError
from sparse_deploy.pruning.allocation import Chosen, Option, allocate, speed_up, zero_share
from sparse_deploy.pruning.answers import AnswerChange, answers_of, compare_answers, has_head
from sparse_deploy.pruning.kernel_costs import kernel_cost
from sparse_deploy.pruning.method import Progress, PruningPlan, TokenBatch, share_of
from sparse_deploy.pruning.second_order import SecondOrderPruning
from sparse_deploy.pruning.sensitivity import measure_options
from sparse_deploy.sparsity.pattern import PatternKind, SparsityPattern

# Trials of a search for --max-drop; five bisections leave 3 % of the range of shares.
_TRIALS = 5
# Share of the sensitivity measurement in the work of planning with trials.
_MEASURING = 0.4


@dataclass(frozen=True)
class Planned:
    """A plan and its inputs.

    Attributes:
        plan: shares of the matrices to prune.
        dense: matrices that stay dense.
        details: entries for the manifest: predicted speed, trials.
    """

    plan: PruningPlan
    dense: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def uniform_plan(parameters: Mapping[str, nn.Parameter], settings: PruneSettings) -> Planned:
    """One share for all matrices."""
    share = share_of(settings.pattern, settings.target)
    return Planned(PruningPlan.uniform(tuple(parameters), settings.pattern, share), details={"allocation": "uniform"})


def plan_by_sensitivity(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    settings: PruneSettings,
    batches: Sequence[TokenBatch],
    probes: Sequence[TokenBatch],
    progress: Progress,
) -> Planned:
    """Shares by measured sensitivity: the least harmful zeros first, until the goal is met.

    Args:
        model: the model, which is not changed.
        parameters: the model's prunable weights, by name.
        settings: the goal.
        batches: text for the Hessians.
        probes: held-out text, for the change of the outputs.
        progress: called with a message and the completed share.

    Raises:
        ConfigError: the goal can't be met.
        RuntimeUnavailableError: a speed is required and the kernels were not compiled.
    """
    searching = settings.max_drop is not None
    measuring = _MEASURING if searching else 1.0
    cost = _cost_model(settings)
    options = measure_options(
        model, tuple(parameters), settings.pattern, batches, probes, cost,
        lambda message, share: progress(message, measuring * share),
    )  # fmt: skip
    weights = {name: parameter.numel() for name, parameter in parameters.items()}
    trials: list[dict[str, float]] = []
    chosen: Chosen | None
    if settings.max_drop is not None:
        search = _DropSearch(model, settings, options, weights, batches, probes)
        chosen, trials = search.run(lambda message, share: progress(message, measuring + (1 - measuring) * share))
    else:
        chosen = _meet(options, weights, settings)
    dense = tuple(name for name, option in chosen.items() if option.share == 0.0)
    shares = {name: option.share for name, option in chosen.items() if option.share > 0.0}
    details: dict[str, Any] = {
        "allocation": "sensitivity",
        "predicted_speed": round(speed_up(chosen, options), 3),
        "harm": {name: [[option.share, option.harm] for option in row[1:]] for name, row in options.items()},
        "dense": list(dense),
    }
    if trials:
        details["trials"] = trials
    return Planned(PruningPlan(settings.pattern, shares), dense, details)


def _meet(options: Mapping[str, Sequence[Option]], weights: Mapping[str, int], settings: PruneSettings) -> Chosen:
    if settings.speed is not None:
        wanted = settings.speed
        chosen = allocate(options, "time", lambda found: speed_up(found, options) >= wanted)
        if chosen is None:
            best = speed_up({name: row[-1] for name, row in options.items()}, options)
            raise ConfigError(
                f"--speed {wanted:g}: at most {best:.2f} is predicted for {settings.pattern} on this CPU, with the "
                f"largest share of zeros in every matrix; require less, or choose another pattern"
            )
        return chosen
    target = share_of(settings.pattern, settings.target)
    chosen = allocate(options, "zeros", lambda found: zero_share(found, weights) >= target)
    return chosen if chosen is not None else {name: row[-1] for name, row in options.items()}


class _DropSearch:
    """Searches for the most zeros whose drop, measured after pruning, is within the limit."""

    def __init__(
        self,
        model: nn.Module,
        settings: PruneSettings,
        options: Mapping[str, Sequence[Option]],
        weights: Mapping[str, int],
        batches: Sequence[TokenBatch],
        probes: Sequence[TokenBatch],
    ) -> None:
        self._model = model
        self._settings = settings
        self._options = options
        self._weights = weights
        self._batches = batches
        self._probes = probes
        self._dense = answers_of(model, probes)
        self._head = has_head(model, probes[0])

    def run(self, progress: Progress) -> tuple[Chosen, list[dict[str, float]]]:
        """The choice, and every trial's zero share and drop.

        Raises:
            ConfigError: no trial is within the limit.
        """
        limit = self._settings.max_drop or 0.0
        low, high = (
            zero_share({name: row[end] for name, row in self._options.items()}, self._weights) for end in (0, -1)
        )
        best: Chosen | None = None
        trials: list[dict[str, float]] = []
        for trial in range(_TRIALS):
            middle = (low + high) / 2
            chosen = self._reach(middle)
            progress(f"trial {trial + 1} of {_TRIALS}", trial / _TRIALS)
            drop = self._drop(chosen).drop
            trials.append({"zeros": zero_share(chosen, self._weights), "drop": drop})
            if drop <= limit:
                low, best = middle, chosen
            else:
                high = middle
        if best is None:
            least = min(trials, key=lambda one: one["zeros"])
            raise ConfigError(
                f"--max-drop {limit:g}: {least['zeros']:.1%} zeros already change the outputs by {least['drop']:.4f} "
                f"on held-out text; allow more, choose a finer pattern, or recover with --recover and --target"
            )
        return best, trials

    def _reach(self, share: float) -> Chosen:
        chosen = allocate(self._options, "time", lambda found: zero_share(found, self._weights) >= share)
        return chosen if chosen is not None else {name: row[-1] for name, row in self._options.items()}

    def _drop(self, chosen: Chosen) -> AnswerChange:
        trial = copy.deepcopy(self._model)
        shares = {name: option.share for name, option in chosen.items() if option.share > 0.0}
        SecondOrderPruning().prune(trial, PruningPlan(self._settings.pattern, shares), self._batches)
        return compare_answers(self._dense, answers_of(trial, self._probes), head=self._head)


def _cost_model(settings: PruneSettings) -> Callable[[tuple[int, int], SparsityPattern, float], float]:
    """The cost model of the kernels; without compiled kernels (and without --speed) it is the share of kept weights."""
    try:
        kernel_cost((64, 64), SparsityPattern(PatternKind.UNSTRUCTURED), 0.5)
    except RuntimeUnavailableError:
        if settings.speed is not None:
            raise
        return lambda shape, pattern, share: 1.0 - share
    return kernel_cost
