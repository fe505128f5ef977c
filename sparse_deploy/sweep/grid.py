# SPDX-License-Identifier: Apache-2.0
"""The sweep file: its schema, and the settings of its cells."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from sparse_deploy.config.loader import first_problem, load_recipe, parse_yaml, read_capped
from sparse_deploy.config.schema import Recipe, Section
from sparse_deploy.errors import ConfigError

# A cell takes minutes; a larger grid is a mistake.
MAX_CELLS = 1000
Settings = dict[str, Any]


class BenchOptions(Section):
    """Options of the measurement; the recipe lists the runtimes.

    Attributes:
        latency: also measure latency and throughput, one cell at a time on the whole machine.
        against: a stored baseline for the comparison of every cell (``bench --against``).
    """

    latency: bool = False
    against: str | None = None


class Sweep(Section):
    """A sweep file.

    Attributes:
        name: name of the output folder.
        recipe: a recipe file, or the name of a shipped one.
        checkpoint: the finished checkpoint that every cell exports.
        finetune: train the checkpoints by the recipe instead; cells with equal training share one.
        set: recipe keys that are equal in every cell, as ``--set`` of the command line.
        grid: recipe keys with their values; a cell is a choice of one value for every key.
        exclude: cells of the grid with all of these values are removed.
        include: settings that are added to every cell whose grid values they do not change; if there is none, they make
            a new cell.
        bench: settings of the measurement.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    recipe: str
    checkpoint: str | None = None
    finetune: bool = False
    set: Settings = Field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    exclude: tuple[Settings, ...] = ()
    include: tuple[Settings, ...] = ()
    bench: BenchOptions = BenchOptions()

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        if (self.checkpoint is None) != self.finetune:
            raise ValueError("give either checkpoint (a finished one to export) or finetune: true")
        if not self.grid and not self.include:
            raise ValueError("grid and include are both empty, so there is nothing to run")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"grid.{empty[0]} has no values")
        if shared := self.set.keys() & {*self.grid, *itertools.chain.from_iterable(self.include)}:
            raise ValueError(f"{min(shared)} is in set, and in grid or include")
        if unknown := {*itertools.chain.from_iterable(self.exclude)} - self.grid.keys():
            raise ValueError(f"exclude names {min(unknown)}, which is not a key of the grid")
        return self


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ConfigError: unreadable file, unknown key, wrong value.
    """
    text = read_capped(path, "sweep file", "Examples are in examples/sweeps/.")
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a sweep is a mapping of keys to values, found {type(data).__name__}")
    try:
        return Sweep.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error, Sweep)}") from error


def expand(sweep: Sweep) -> list[Settings]:
    """The settings of every cell, in the order of the file.

    Raises:
        ConfigError: no cell, too many cells, two equal cells, or an ``exclude`` that removes no cell.
    """
    count = 1
    for values in sweep.grid.values():
        count *= len(values)
    if count > MAX_CELLS:
        raise ConfigError(f"{sweep.name}: the grid has {count} cells, at most {MAX_CELLS} are allowed; make it smaller")
    choices = itertools.product(*sweep.grid.values()) if sweep.grid else ()
    cells = [dict(zip(sweep.grid, values, strict=True)) for values in choices]
    for rule in sweep.exclude:
        kept = [cell for cell in cells if not _holds(cell, rule)]
        if len(kept) == len(cells):
            raise ConfigError(f"{sweep.name}: exclude {json.dumps(rule)} matches no cell that is left of the grid")
        cells = kept
    cells = _with_included(cells, sweep)
    texts = [json.dumps(cell, sort_keys=True, default=str) for cell in cells]
    if twins := [text for text in texts if texts.count(text) > 1]:
        raise ConfigError(f"{sweep.name}: two cells are equal: {twins[0]}")
    if not cells:
        raise ConfigError(f"{sweep.name}: exclude leaves no cell")
    return cells


def cell_recipe(sweep: Sweep, settings: Mapping[str, Any]) -> Recipe:
    """The checked recipe of a cell.

    Raises:
        ConfigError: an unknown key of recipes, or an invalid value.
    """
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in {**sweep.set, **settings}.items()]
    try:
        return load_recipe(sweep.recipe, overrides)
    except ConfigError as error:
        raise ConfigError(f"cell {json.dumps(dict(settings), default=str)}: {error}") from error


def varied_keys(cells: list[Settings]) -> tuple[str, ...]:
    """The keys in which cells differ, in the order of the file: the columns of a table."""
    keys = tuple(dict.fromkeys(itertools.chain.from_iterable(cells)))
    return tuple(key for key in keys if len({json.dumps(c.get(key), default=str) for c in cells}) > 1) or keys


def _with_included(cells: list[Settings], sweep: Sweep) -> list[Settings]:
    own: list[Settings] = []
    grid = [dict(cell) for cell in cells]
    for extra in sweep.include:
        fixed = {key: value for key, value in extra.items() if key in sweep.grid}
        fits = [number for number, cell in enumerate(cells) if _holds(cell, fixed)]
        for number in fits:
            grid[number] |= extra
        if not fits:
            own.append(extra)
    return grid + own


def _holds(cell: Settings, rule: Settings) -> bool:
    return all(key in cell and cell[key] == value for key, value in rule.items())
