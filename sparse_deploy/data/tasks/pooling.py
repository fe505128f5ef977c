# SPDX-License-Identifier: Apache-2.0
"""Pools token vectors to one vector per text, by the settings of sentence-transformers in a model's folder.

Files: ``modules.json`` lists the modules by class and folder; the folder of ``Pooling`` has a ``config.json`` with one
``pooling_mode_*`` flag per method (https://sbert.net/docs/package_reference/sentence_transformer/models.html#pooling).
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_deploy.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MODULES_FILE = "modules.json"
# Files of a folder of sentence-transformers, other than those of the encoder.
SENTENCE_FILES = (MODULES_FILE, "config_sentence_transformers.json", "sentence_bert_config.json")
_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


class PoolingMode(StrEnum):
    """The token vectors that are pooled."""

    CLS = "cls"
    MEAN = "mean"


@dataclass(frozen=True)
class Pooling:
    """The pooling of token vectors to the vector of a text.

    Attributes:
        mode: the vector of the first token, or the mean over all tokens without padding.
        normalize: whether vectors get length 1.
        folder: of the pooling's ``config.json`` inside the model's folder; empty if there is none.
    """

    mode: PoolingMode = PoolingMode.MEAN
    normalize: bool = True
    folder: str = ""

    def __call__(self, hidden: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
        """Pool.

        Args:
            hidden: ``[batch, tokens, width]``.
            attention_mask: ``[batch, tokens]``, 1 for tokens and 0 for padding.

        Returns:
            ``[batch, width]``.
        """
        if self.mode is PoolingMode.CLS:
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        if self.normalize:
            pooled = pooled / pooled.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        return pooled


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling of a folder of sentence-transformers; None for other folders.

    Raises:
        CheckpointError: a module or a pooling is not supported.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    modules = _read(folder / MODULES_FILE)
    names = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules if isinstance(module, dict)]
    unknown = [name for name in names if name not in _KNOWN_MODULES]
    if unknown or "Pooling" not in names:
        raise CheckpointError(
            f"{folder / MODULES_FILE}: expected a Transformer, a Pooling and an optional Normalize module, found "
            f"{', '.join(names) or 'none'}; {'such models' if unknown else 'models without pooling'} can't be exported"
        )
    place = str(modules[names.index("Pooling")].get("path", ""))
    if ".." in Path(place).parts or Path(place).is_absolute():
        raise CheckpointError(f"{folder / MODULES_FILE}: the path {place!r} is outside the folder")
    settings = _read(folder / place / "config.json")
    wanted = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is True]
    named = settings.get("pooling_mode")
    modes = [_MODES.get(key) for key in wanted] or [named if named in ("cls", "mean") else None]
    if len(modes) != 1 or modes[0] is None:
        raise CheckpointError(
            f"{folder / place / 'config.json'}: expected CLS or mean pooling, found "
            f"{', '.join(wanted) or named or 'none'}; other poolings can't be exported"
        )
    return Pooling(PoolingMode(modes[0]), "Normalize" in names, place)


def sentence_length(folder: Path) -> int | None:
    """``max_seq_length`` of a folder of sentence-transformers, in tokens; None if it is missing."""
    path = folder / "sentence_bert_config.json"
    length = _read(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}; copy the model's folder again") from error
