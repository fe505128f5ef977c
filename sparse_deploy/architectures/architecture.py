# SPDX-License-Identifier: Apache-2.0
"""The properties of model families that transformers does not provide: one value per family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

# Outputs of a tokenizer and possible inputs of a model, int64 [batch, tokens] each.
INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Buffers that older releases of transformers saved with the weights; the config determines them.
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")

# Parts of the names of parameters that are never pruned in any family.
ENCODER_ONLY = ("embeddings", "pooler", "classifier", "qa_outputs", "LayerNorm")

Config = Mapping[str, Any]
Layer = TypeVar("Layer")


class MaskForm(StrEnum):
    """The form in which a traced model gets its padding mask ``[batch, tokens]``.

    transformers' own code for the plain form traces to GatherND over index grids and a ``[batch, 1, tokens, tokens]``
    tensor per request, so models that accept another form get that form.
    """

    PLAIN = "plain"  # unchanged
    ADDITIVE = "additive"  # float [batch, 1, 1, tokens]: 0 for a token, the lowest float for padding
    KEYS = "keys"  # bool [batch, 1, 1, tokens]: True for tokens, False for padding
    WINDOWS = "windows"  # one additive mask per kind of layer, for the encoder; the head gets the plain mask


class Positions(StrEnum):
    """How a position embedding is indexed."""

    FROM_ZERO = "from zero"
    BEHIND_PADDING = "behind the padding id"  # the first token has position padding id + 1, as in fairseq
    FROM_TWO = "from two"  # the same with a padding id of 1, for every padding id of the config


@dataclass(frozen=True)
class Architecture:
    """A model family.

    Attributes:
        model_types: ``model_type`` of the family's configs.
        title: name for users.
        heads: modules outside the encoder: poolers, heads of tasks and of pretraining. A task creates missing heads,
            and drops unused ones.
        dense: parts of parameter names that are never pruned: embeddings, poolers, heads.
        dropout: config keys that ``model.dropout`` sets; empty if the family has none.
        layers: config key of the number of layers.
        mask: see :class:`MaskForm`.
        positions: see :class:`Positions`.
        token_types: token types that a config has by default; 0 if the models have no ``token_type_ids``.
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
        """Largest number of input tokens, special tokens included; None if the config has no limit."""
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
        """Whether a parameter belongs to a head and not to the encoder."""
        return any(part in self.heads for part in parameter.split("."))


def without_head(linears: Sequence[Layer], shapes: Sequence[Sequence[int]]) -> Sequence[Layer]:
    """The Linear layers that may be quantized: all except the head, whose rounding directly changes the logits.

    The head is the last layer that runs. A model without a head, such as a sentence encoder, ends with a feed-forward
    block, whose second layer has as many outputs as the first layer has inputs. Names do not identify the head, because
    other exporters use other names.

    Args:
        linears: Linear layers of one model, in execution order.
        shapes: ``(outputs, inputs)`` of each layer.
    """
    ends_with_feed_forward = len(shapes) > 1 and shapes[-1][0] == shapes[-2][1]
    return linears if ends_with_feed_forward else linears[:-1]


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is a table that the config determines, and not a weight."""
    return name.rsplit(".", maxsplit=1)[-1] in _BUFFERS
