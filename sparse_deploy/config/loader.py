# SPDX-License-Identifier: Apache-2.0
"""YAML to :class:`Recipe`: safely, with dotted overrides, and with errors that name the nearest known key."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sparse_deploy.config.schema import Recipe
from sparse_deploy.errors import ConfigError

# A recipe is a page of text. The caps stop a file that is not a recipe, and alias bombs, before they cost memory.
MAX_RECIPE_BYTES = 256 * 1024


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a recipe needs none; nested aliases grow exponentially) or duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 5e-4 as text because it wants a dot; every engineer means a number.
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML without running anything in it.

    Raises:
        ConfigError: it is not YAML, or uses a form that recipes may not use.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{origin}: not a usable YAML file: {reason}") from error


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe file.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts; the value is read as YAML.

    Raises:
        ConfigError: unreadable file, unknown key, wrong value.
    """
    try:
        size = path.stat().st_size
        if size > MAX_RECIPE_BYTES:
            raise ConfigError(f"{path}: a recipe is at most {MAX_RECIPE_BYTES} bytes, this file has {size}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't read the recipe: {error}. Recipes lie in export_configs/.") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values, found {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    return recipe_from_mapping(data, str(path))


def recipe_from_mapping(data: Mapping[str, Any], origin: str) -> Recipe:
    """Check a mapping against the schema.

    Args:
        data: plain YAML/JSON data.
        origin: where it came from, for the error.

    Raises:
        ConfigError: one line naming the key, what was expected and what was found.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error)}") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set: expected key.path=value, found {override!r}")
    node = data
    for key in keys[:-1]:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {key} holds a plain value, not further keys")
    node[keys[-1]] = parse_yaml(text, f"--set {path}")


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # An unknown key explains most other problems (a misspelt required key shows up as two): report it first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = ".".join(str(part) for part in problem["loc"]) or "recipe"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {location!r}{_nearest(problem['loc'])}{more}"
    found = f"; found {problem['input']!r}" if not isinstance(problem["input"], dict) else ""
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{found}{more}"


def _nearest(location: tuple[int | str, ...]) -> str:
    known = _known_keys(location[:-1])
    match = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known keys here: {', '.join(known)}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return next((found for part in typing.get_args(annotation) if (found := _section_of(part))), None)
    return None
