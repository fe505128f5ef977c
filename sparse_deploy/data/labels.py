# SPDX-License-Identifier: Apache-2.0
"""Matching of the label names of a model and of data, by order only if one of them has no names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparse_deploy.errors import ConfigError

_PLACEHOLDER = re.compile(r"(label[_ ]?)?\d+", re.IGNORECASE)


def model_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """``id2label`` of a ``config.json`` in the order of its ids; empty if it is missing.

    Raises:
        ConfigError: the ids are not 0 to n-1.
    """
    found = config.get("id2label")
    if not found:
        return ()
    if not isinstance(found, dict) or {str(key) for key in found} != {str(number) for number in range(len(found))}:
        raise ConfigError(f"config.json: expected id2label with ids 0 to n-1, found {str(found)[:100]}")
    by_id = {int(key): str(name) for key, name in found.items()}
    return tuple(by_id[number] for number in range(len(by_id)))


def have_names(labels: Sequence[str]) -> bool:
    """Whether labels have names, and not placeholders such as ``LABEL_0``."""
    return bool(labels) and not all(_PLACEHOLDER.fullmatch(label) for label in labels)


def match_labels(data: Sequence[str], model: Sequence[str], renamed: Mapping[str, str], origin: str) -> tuple[str, ...]:
    """The data's labels in the order of the model's outputs.

    Args:
        data: names in the order of the data's ids.
        model: names in the order of the outputs; placeholders follow the data's order.
        renamed: mapping of names in the data to names in the model.
        origin: the model, for the message.

    Raises:
        ConfigError: different numbers of labels, or names that can't be matched.
    """
    if len(data) != len(model):
        raise ConfigError(
            f"{origin}: expected {len(data)} labels ({_some(data)}), the model has {len(model)} ({_some(model)}); use "
            f"it with the data of its own task, or fine-tune first"
        )
    if not have_names(model):
        return tuple(data)
    by_name = {_plain(renamed.get(label, label)): label for label in data}
    ordered = [by_name.get(_plain(label)) for label in model]
    unmatched = [label for label, found in zip(model, ordered, strict=True) if found is None]
    if unmatched or len(by_name) != len(data):
        raise ConfigError(
            f"{origin}: the model's labels ({_some(model)}) are not those of the data ({_some(data)}), so they can't "
            f"be matched; map them with task.label_names, such as {{{data[0]}: {model[0]}}}, or fine-tune first"
        )
    return tuple(label for label in ordered if label is not None)


def sorted_labels(found: Iterable[str]) -> tuple[str, ...]:
    """Sorted label names of data without an order: numbers by value, else by name, with ``O`` first."""
    names = set(found)
    if all(name.isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names, key=lambda name: (name != "O", name)))


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", "_", label.strip().casefold())


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
