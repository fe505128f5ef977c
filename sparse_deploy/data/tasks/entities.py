# SPDX-License-Identifier: Apache-2.0
"""Entities in IOB2 tags: ``B-TYPE`` begins an entity, ``I-TYPE`` continues it, ``O`` is outside.

Invalid sequences are read as in CoNLL's ``conlleval``: an ``I-`` tag after another type or after ``O`` begins a new
entity.
"""

from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"


class Entity(NamedTuple):
    """One entity: type, first word, and the word after the last."""

    type: str
    begin: int
    end: int


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order."""
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag == OUTSIDE or not kind:
            continue
        goes_on = bool(found) and prefix == "I" and found[-1].end == place and found[-1].type == kind
        if goes_on:
            found[-1] = found[-1]._replace(end=place + 1)
        else:
            found.append(Entity(kind, place, place + 1))
    return found


def is_tag(label: str) -> bool:
    """Whether a label belongs to the scheme."""
    return label == OUTSIDE or (label[:2] in ("B-", "I-") and len(label) > 2)
