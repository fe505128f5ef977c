# SPDX-License-Identifier: Apache-2.0
"""Model families as values, one file each; no framework is imported, because the server also uses them.

A new family is a file with an :class:`Architecture`, its name in :data:`ARCHITECTURES`, and a tiny model in the tests.
"""

import json
from pathlib import Path

from sparse_deploy.architectures.albert import ALBERT
from sparse_deploy.architectures.architecture import (
    MODEL_INPUTS,
    Architecture,
    Config,
    MaskForm,
    is_buffer,
    without_head,
)
from sparse_deploy.architectures.bert import BERT
from sparse_deploy.architectures.deberta import DEBERTA
from sparse_deploy.architectures.distilbert import DISTILBERT
from sparse_deploy.architectures.electra import ELECTRA
from sparse_deploy.architectures.modernbert import MODERNBERT
from sparse_deploy.architectures.mpnet import MPNET
from sparse_deploy.architectures.other import other_architecture
from sparse_deploy.architectures.roberta import ROBERTA
from sparse_deploy.errors import ConfigError

ARCHITECTURES = (BERT, ROBERTA, DISTILBERT, ELECTRA, MPNET, ALBERT, DEBERTA, MODERNBERT)
_BY_TYPE = {model_type: architecture for architecture in ARCHITECTURES for model_type in architecture.model_types}


def architecture_of(config: Config) -> Architecture:
    """The family of a model.

    Args:
        config: content of its ``config.json``.
    """
    return _BY_TYPE.get(str(config.get("model_type"))) or other_architecture(config)


def dense_parts() -> tuple[str, ...]:
    """Parts of parameter names that no family prunes, without duplicates: embeddings, poolers, heads, norms."""
    return tuple(dict.fromkeys(part for one in ARCHITECTURES for part in one.dense))


def check_length(config: Config, max_length: int, source: Path | str) -> None:
    """Check that a model can read inputs of a length.

    Args:
        config: content of its ``config.json``.
        max_length: length in tokens, special tokens included.
        source: the model, for the message.

    Raises:
        ConfigError: the length is too large.
    """
    usable = architecture_of(config).usable_length(config)
    if usable is not None and max_length > usable:
        raise ConfigError(
            f"{source}: the model reads at most {usable} tokens, data.max_length is {max_length}; lower it to {usable}"
        )


def read_config(folder: Path) -> dict[str, object]:
    """``config.json`` of a folder that :func:`sparse_deploy.checkpoint.check_checkpoint` has accepted."""
    content: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


__all__ = [
    "ARCHITECTURES", "Architecture", "Config", "MODEL_INPUTS", "MaskForm", "architecture_of", "check_length",
    "dense_parts", "is_buffer", "read_config", "without_head",
]  # fmt: skip
