# SPDX-License-Identifier: Apache-2.0
"""Reads YAML into a :class:`Recipe`: safely, with dotted overrides, and with errors that name the nearest known key."""

import copy
import difflib
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sparse_deploy.config.schema import Recipe
from sparse_deploy.errors import ConfigError, one_line

Settings = TypeVar("Settings", bound=BaseModel)

# A recipe is a page of text. The limits stop other files, and alias bombs, before they use memory.
MAX_RECIPE_BYTES = 256 * 1024
_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package has the recipes in sparse_deploy/recipes; in a checkout they are in export_configs.
RECIPE_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "export_configs")


class _RecipeLoader(yaml.SafeLoader):
    """Safe YAML without aliases (nested aliases grow exponentially), tags (code, unusual types) or duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not allowed in a recipe; found {event.tag!r}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


# Numbers in usual notation, unlike YAML 1.1, in which 5e-4 is text (no dot), 1:2 is 62 (base 60) and 010 is 8.
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_RecipeLoader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"), list("-+0123456789.")
)


def parse_yaml(text: str, origin: str) -> object:
    """Read YAML without executing any of its content.

    Raises:
        ConfigError: the text is not YAML, or uses a form that is not allowed in recipes.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = one_line(error)
        raise ConfigError(f"{origin}: not a usable YAML file: {reason}") from error


def find_recipe(name_or_path: str | Path) -> Path:
    """A recipe file by path, or one of the shipped recipes by name (``minilm-demo``).

    Raises:
        ConfigError: neither a file nor a shipped recipe; the message has the nearest name.
    """
    path = Path(name_or_path)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    shipped = {file.stem: file for folder in RECIPE_FOLDERS for file in sorted(folder.glob("*.yaml"))}
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    match = difflib.get_close_matches(str(name_or_path), shipped, n=1, cutoff=0.4)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    raise ConfigError(f"{name_or_path}: neither a recipe file nor one of the {len(shipped)} shipped recipes{hint}")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe.

    Args:
        name_or_path: a YAML file, or the name of a shipped recipe.
        overrides: ``a.b=value`` texts; the value is read as YAML.

    Raises:
        ConfigError: unreadable file, unknown key, wrong value.
    """
    path = find_recipe(name_or_path)
    data = parse_yaml(read_capped(path), str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values, found {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    return recipe_from_mapping(data, str(path))


def recipe_with_overrides(data: Mapping[str, Any], overrides: Sequence[str], origin: str) -> Recipe:
    """Apply overrides to a recipe in the form of data, such as the recipe of a manifest.

    Args:
        data: plain JSON data; not modified.
        overrides: see :func:`load_recipe`.
        origin: source of the data, for the error.

    Raises:
        ConfigError: unknown key, wrong value.
    """
    changed = copy.deepcopy(dict(data))
    for override in overrides:
        _apply_override(changed, override)
    return recipe_from_mapping(changed, origin)


def recipe_from_mapping(data: Mapping[str, Any], origin: str) -> Recipe:
    """Check a mapping against the schema.

    Args:
        data: plain YAML/JSON data.
        origin: source of the data, for the error.

    Raises:
        ConfigError: one line naming the key, what was expected and what was found.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {first_problem(error)}") from error
    except ConfigError as error:  # raised by the sparsity pattern's parser
        raise ConfigError(f"{origin}: {error}") from error


def settings_from_options(schema: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Check the options of a command against a schema.

    Raises:
        ConfigError: one line naming the option, what was expected and what was found.
    """
    try:
        return schema.model_validate(options)
    except ValidationError as error:
        problem = first_problem(error, schema)
        of_all = f"{schema.__name__.lower()}: "  # the message of a rule between options has their names
        if problem.startswith(of_all):
            raise ConfigError(problem.removeprefix(of_all)) from error
        raise ConfigError(f"--{problem.replace('_', '-', 1)}") from error


def read_capped(path: Path, what: str = "recipe", where: str = "Recipes are in export_configs/.") -> str:
    """Text of a YAML file of at most :data:`MAX_RECIPE_BYTES`.

    Args:
        path: the file.
        what: the name of this kind of file in messages.
        where: a sentence with the location of such files.

    Raises:
        ConfigError: the file is unreadable, not UTF-8, or too long.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_RECIPE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can't read the {what}: {error}. {where}") from error
    if len(content) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path}: a {what} is at most {MAX_RECIPE_BYTES} bytes, this file is longer")
    return text


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


def first_problem(error: ValidationError, schema: type[BaseModel] = Recipe) -> str:
    """One line for an invalid file: the key, the expected value and the value found.

    Args:
        error: the error of pydantic.
        schema: the schema of the file, for the nearest valid key.
    """
    problems = error.errors(include_url=False)
    # An unknown key causes most other problems (a misspelt required key gives two): report it first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    keys = tuple(part for part in problem["loc"] if not _is_union_member(part))
    location = ".".join(map(str, keys)) or schema.__name__.lower()
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {location!r}{_nearest(keys, schema)}{more}"
    found = "" if isinstance(problem["input"], dict) else f"; found {textwrap.shorten(repr(problem['input']), 80)}"
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{found}{more}"


def _is_union_member(part: int | str) -> bool:
    """Whether a part of a location is pydantic's name of a type, such as ``TaskSection``, and not a key."""
    return isinstance(part, str) and ("[" in part or part.endswith("Section"))


def _nearest(location: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    known = _known_keys(location[:-1], schema)
    match = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; known keys here: {', '.join(known)}"


def _known_keys(location: tuple[int | str, ...], schema: type[BaseModel]) -> list[str]:
    model = schema
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return next((found for part in typing.get_args(annotation) if (found := _section_of(part))), None)
    return None
