# SPDX-License-Identifier: Apache-2.0
"""DistilBERT: BERT's layers under other names, no token types, a classifier of two layers."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture

DISTILBERT = Architecture(
    model_types=("distilbert",),
    title="DistilBERT",
    heads=("pre_classifier", "classifier", "qa_outputs", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    dense=(*ENCODER_ONLY, "vocab_transform", "vocab_projector"),
    dropout=("dropout", "attention_dropout"),
    layers="n_layers",
    token_types=0,
)
