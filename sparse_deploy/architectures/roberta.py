# SPDX-License-Identifier: Apache-2.0
"""RoBERTa, XLM-R and CamemBERT: BERT's layers, positions after the padding id, no ``token_type_ids`` input."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture, Positions

ROBERTA = Architecture(
    model_types=("roberta", "xlm-roberta", "camembert"),
    title="RoBERTa",
    heads=("classifier", "qa_outputs", "pooler", "lm_head"),
    dense=(*ENCODER_ONLY, "lm_head"),
    positions=Positions.BEHIND_PADDING,
    token_types=0,
    padding_id=1,
)
