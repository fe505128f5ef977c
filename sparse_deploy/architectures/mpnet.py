# SPDX-License-Identifier: Apache-2.0
"""MPNet: BERT's layers with one relative position bias shared by all layers; positions start at two."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture, Positions

MPNET = Architecture(
    model_types=("mpnet",),
    title="MPNet",
    heads=("classifier", "qa_outputs", "pooler", "lm_head"),
    dense=(*ENCODER_ONLY, "relative_attention_bias", "lm_head"),
    positions=Positions.FROM_TWO,
    token_types=0,
)
