# SPDX-License-Identifier: Apache-2.0
"""Cells: a model size, a sparsity pattern, a batch and a sequence length, in this order in the cell's name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from harness.bars import CELLS
from sparse_deploy.sparsity.pattern import DENSE, UNSTRUCTURED, PatternKind, SparsityPattern

SEQUENCE_CLASSIFICATION = "text-classification"
QUESTION_ANSWERING = "question-answering"


@dataclass(frozen=True)
class ModelSize:
    """A model by its config.

    Attributes:
        config: fields that differ from the defaults of transformers' config of its ``model_type``, which is ``bert``
            when omitted. BERT's defaults are those of bert-base.
        task: kind of head, as :class:`sparse_deploy.data.tasks.TaskKind` names it.
    """

    config: dict[str, Any]
    task: str = SEQUENCE_CLASSIFICATION

    @property
    def model_type(self) -> str:
        """As in ``config.json``."""
        return str(self.config.get("model_type", "bert"))


MODELS = {
    "base": ModelSize({}),
    "large": ModelSize(
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        QUESTION_ANSWERING,
    ),
    "minilm": ModelSize(
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    ),
    # The shapes of distilroberta-base, deberta-v3-small and ModernBERT-base.
    "distilroberta": ModelSize(
        {
            "model_type": "roberta",
            "num_hidden_layers": 6,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "vocab_size": 50265,
        }
    ),
    "debertav3small": ModelSize(
        {
            "model_type": "deberta-v2",
            "num_hidden_layers": 6,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "vocab_size": 128100,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        }
    ),
    "modernbert": ModelSize({"model_type": "modernbert"}),
    # For tests of the benchmark itself: built within seconds.
    "tiny": ModelSize(
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "vocab_size": 30000,
        }
    ),
}


@dataclass(frozen=True)
class Cell:
    """One cell; :func:`parse_cell` reads its name."""

    model: str
    pattern: str
    batch: int
    sequence: int

    @property
    def name(self) -> str:
        """``MODEL-PATTERN-bBATCH-sSEQUENCE``."""
        return f"{self.model}-{self.pattern}-b{self.batch}-s{self.sequence}"

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON, for a worker."""
        return {"model": self.model, "pattern": self.pattern, "batch": self.batch, "sequence": self.sequence}


def parse_cell(text: str) -> Cell:
    """Read a cell's name: one of the table, or any other name of that form.

    Raises:
        ValueError: the text has another form, or names an unknown model or pattern.
    """
    match = re.fullmatch(r"(?P<model>\w+)-(?P<pattern>\w+)-b(?P<batch>[1-9]\d*)-s(?P<sequence>[1-9]\d*)", text)
    if match is None:
        raise ValueError(f"cell: expected MODEL-PATTERN-bBATCH-sSEQUENCE such as base-u70-b1-s128, found {text!r}")
    if match["model"] not in MODELS:
        raise ValueError(f"cell {text}: expected a model of {', '.join(MODELS)}, found {match['model']!r}")
    parse_pattern(match["pattern"])
    if int(match["sequence"]) > 512:
        raise ValueError(f"cell {text}: expected at most 512 tokens, found {match['sequence']}")
    return Cell(match["model"], match["pattern"], int(match["batch"]), int(match["sequence"]))


def select_cells(texts: Sequence[str]) -> list[Cell]:
    """The cells that a command line names: ``all``, globs over the table, or names, separated by commas or blanks.

    Each cell occurs once; cells of one model are adjacent, so that its files are still in the page cache.

    Raises:
        ValueError: a name is not a cell, or a glob matches no cell.
    """
    found: list[Cell] = []
    for text in [word for argument in texts for word in argument.replace(",", " ").split()]:
        names = list(CELLS) if text == "all" else [name for name in CELLS if fnmatchcase(name, text)]
        if not names and any(letter in text for letter in "*?["):
            raise ValueError(f"cells: {text!r} matches none of {', '.join(CELLS)}")
        found += [parse_cell(name) for name in names or [text]]
    unique = list(dict.fromkeys(found))
    models = list(dict.fromkeys((cell.model, cell.pattern) for cell in unique))
    return sorted(unique, key=lambda cell: models.index((cell.model, cell.pattern)))


def parse_pattern(text: str) -> tuple[SparsityPattern, float]:
    """A pattern's short name: ``u70``, ``12`` (1:2), ``24``, ``b80_4x1``, ``dense``.

    Returns:
        The pattern and its zero share.

    Raises:
        ValueError: unknown pattern name.
    """
    if text == "dense":
        return DENSE, 0.0
    if match := re.fullmatch(r"u(\d\d)", text):
        return UNSTRUCTURED, int(match[1]) / 100
    if match := re.fullmatch(r"(\d)(\d)", text):
        kept, group = int(match[1]), int(match[2])
        if 0 < kept < group:
            return SparsityPattern(PatternKind.N_M, n=kept, m=group), 1 - kept / group
    if match := re.fullmatch(r"b(\d\d)_([1-9]\d*)x([1-9]\d*)", text):
        return SparsityPattern(PatternKind.BLOCK, block=(int(match[2]), int(match[3]))), int(match[1]) / 100
    raise ValueError(f"pattern: expected u70, 12, b80_4x1 or the like, or dense; found {text!r}")
