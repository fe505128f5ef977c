# SPDX-License-Identifier: Apache-2.0
"""ModernBERT: pre-LayerNorm, gated feed-forward blocks, rotary positions, local attention in two of three layers."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture, MaskForm

MODERNBERT = Architecture(
    model_types=("modernbert",),
    title="ModernBERT",
    heads=("classifier", "head", "decoder", "qa_outputs"),
    dense=(*ENCODER_ONLY, "head.dense", "decoder.weight"),
    dropout=("embedding_dropout", "attention_dropout", "mlp_dropout"),
    mask=MaskForm.WINDOWS,
    token_types=0,
)
