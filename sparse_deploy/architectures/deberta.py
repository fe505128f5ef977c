# SPDX-License-Identifier: Apache-2.0
"""DeBERTa v2 and v3: BERT's layers with disentangled attention (He et al. 2021, arXiv 2006.03654)."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture, MaskForm

DEBERTA = Architecture(
    model_types=("deberta-v2",),
    title="DeBERTa v2/v3",
    heads=("classifier", "qa_outputs", "pooler", "cls", "lm_predictions", "mask_predictions"),
    dense=(*ENCODER_ONLY, "cls.predictions", "lm_predictions", "mask_predictions"),
    mask=MaskForm.KEYS,
    token_types=0,
)
