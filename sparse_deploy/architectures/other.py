# SPDX-License-Identifier: Apache-2.0
"""Other families: the properties that follow from a config."""

from sparse_deploy.architectures.architecture import Architecture, Config, MaskForm, Positions

# Families that count positions from the padding id on, like fairseq.
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
        # Only models with several token types get ``token_type_ids``.
        token_types=2 if int(config.get("type_vocab_size") or 0) > 1 else 0,
        padding_id=1,
        unlisted=f"{model_type} is not a family with sparse encoder layers; see docs/architectures.md",
    )
