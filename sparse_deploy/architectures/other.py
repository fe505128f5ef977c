# SPDX-License-Identifier: Apache-2.0
"""Families without a value in this package: the facts that follow from a config."""

from sparse_deploy.architectures.architecture import Architecture, Config, MaskForm, Positions

# They count positions from the padding id on, as fairseq does.
_BEHIND_PADDING = (
    "data2vec-text", "esm", "ibert", "longformer", "luke", "roberta-prelayernorm", "xlm-roberta-xl", "xmod",
)  # fmt: skip
_HEADS = (
    "classifier", "pre_classifier", "qa_outputs", "pooler", "cls", "lm_head", "score", "logits_proj", "predictions",
    "sequence_summary",
)  # fmt: skip


def other_architecture(config: Config) -> Architecture:
    """The value for a config of another family."""
    model_type = str(config.get("model_type") or "unknown")
    return Architecture(
        model_types=(model_type,),
        title=model_type,
        heads=_HEADS,
        dropout=(),
        mask=MaskForm.PLAIN,
        positions=Positions.BEHIND_PADDING if model_type in _BEHIND_PADDING else Positions.FROM_ZERO,
        # Without an entry of their own, only models with several types are given them.
        token_types=2 if int(config.get("type_vocab_size") or 0) > 1 else 0,
        padding_id=1,
        unlisted=f"{model_type} is none of the families that have sparse encoder layers; see docs/architectures.md",
    )
