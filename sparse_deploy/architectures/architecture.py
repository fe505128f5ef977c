# SPDX-License-Identifier: Apache-2.0
"""The facts on a model family that transformers does not have: one value per family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

# Outputs of a tokenizer and possible inputs of a model, int64 [batch, tokens] each.
INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Buffers that older releases of transformers saved beside the weights; they follow from the config.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")

# Parts of the names of parameters that are never pruned in any family.
ENCODER_ONLY = ("embeddings", "pooler", "classifier", "qa_outputs", "LayerNorm")

Config = Mapping[str, Any]
Layer = TypeVar("Layer")


class MaskForm(StrEnum):
    """The form in which a traced model gets its padding mask ``[batch, tokens]``.

    transformers' own code for the plain form traces to GatherND over index grids and a ``[batch, 1, tokens, tokens]``
    tensor per request, so models that pass another form through get that.
    """

    PLAIN = "plain"  # as it is
    ADDITIVE = "additive"  # float [batch, 1, 1, tokens]: 0 for a token, the lowest float for padding
    KEYS = "keys"  # bool [batch, 1, 1, tokens]: which keys count
    WINDOWS = "windows"  # one additive mask per kind of layer, handed to the encoder; the head gets the plain one


class Positions(StrEnum):
    """How a position embedding is indexed."""

    FROM_ZERO = "from zero"
    BEHIND_PADDING = "behind the padding id"  # the first token has position padding id + 1, as in fairseq
    FROM_TWO = "from two"  # the same with a padding id of 1, for every padding id of the config


@dataclass(frozen=True)
class Architecture:
    """A model family.

    Attributes:
        model_types: ``model_type`` of the configs that belong to it.
        title: its name, for users.
        heads: modules outside the encoder: poolers, heads of tasks and of pretraining. A task creates missing heads,
            and drops unused ones.
        dense: parts of parameter names that are never pruned: embeddings, poolers, heads.
        dropout: config keys that ``model.dropout`` sets; empty where the family has none.
        layers: config key of the number of layers.
        mask: see :class:`MaskForm`.
        positions: see :class:`Positions`.
        token_types: token types that a config has by default; 0 where the family takes no ``token_type_ids``.
        padding_id: default of the padding token's id.
        unlisted: reason for an export without sparse encoder layers; empty for listed families.
    """

    model_types: tuple[str, ...]
    title: str
    heads: tuple[str, ...]
    dense: tuple[str, ...] = ENCODER_ONLY
    dropout: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    layers: str = "num_hidden_layers"
    mask: MaskForm = MaskForm.ADDITIVE
    positions: Positions = Positions.FROM_ZERO
    token_types: int = 2
    padding_id: int = 0
    unlisted: str = ""

    def inputs(self, config: Config) -> tuple[str, ...]:
        """The model's inputs, in the order of :data:`MODEL_INPUTS`."""
        takes_types = self.token_types > 0 and int(config.get("type_vocab_size", self.token_types)) > 0
        return MODEL_INPUTS if takes_types else MODEL_INPUTS[:2]

    def usable_length(self, config: Config) -> int | None:
        """Tokens that the model reads at most, special tokens included; None where its config names no limit."""
        positions = config.get("max_position_embeddings")
        if positions is None or int(positions) < 1:
            return None
        if self.positions is Positions.FROM_TWO:
            return int(positions) - 2
        if self.positions is Positions.BEHIND_PADDING:
            padding = config.get("pad_token_id")
            return int(positions) - (self.padding_id if padding is None else int(padding)) - 1
        return int(positions)

    def in_head(self, parameter: str) -> bool:
        """Whether a parameter belongs to no encoder but to a head."""
        return any(part in self.heads for part in parameter.split("."))


def without_head(linears: Sequence[Layer], shapes: Sequence[Sequence[int]]) -> Sequence[Layer]:
    """The Linear layers that may be quantized: all but the head, because its rounding goes straight into the logits.

    The head is the last layer that runs. A model without a head, such as a sentence encoder, ends with a feed-forward
    block, whose second layer returns to the width that the first one reads. Names can't tell: the graphs of other
    exporters have other names.

    Args:
        linears: of one model, in the order in which they run.
        shapes: ``(outputs, inputs)`` of each.
    """
    ends_with_feed_forward = len(shapes) > 1 and shapes[-1][0] == shapes[-2][1]
    return linears if ends_with_feed_forward else linears[:-1]


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is no weight but a table that the config determines."""
    return name.rsplit(".", maxsplit=1)[-1] in _BUFFERS
