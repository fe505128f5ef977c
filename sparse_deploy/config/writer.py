# SPDX-License-Identifier: Apache-2.0
"""A recipe as YAML that the loader reads back: every key that differs from its default, in the schema's order."""

from typing import Any

import yaml

from sparse_deploy.config.schema import Recipe


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line."""


def _list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    plain = all(isinstance(value, str | int | float | bool | None) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # The recipe's loader reads more numbers than YAML 1.1: quote strings that it would read as numbers.
    style = '"' if any(character.isdigit() for character in value[:1]) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML.

    Args:
        recipe: any recipe; :func:`sparse_deploy.config.loader.load_recipe` reads an equal one.
    """
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    ordered = {key: content[key] for key in type(recipe).model_fields if key in content}
    return "# SPDX-License-Identifier: Apache-2.0\n" + yaml.dump(
        ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
