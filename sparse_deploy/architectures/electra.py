# SPDX-License-Identifier: Apache-2.0
"""ELECTRA: BERT's layers, possibly narrower embeddings, and two pretraining heads."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture

ELECTRA = Architecture(
    model_types=("electra",),
    title="ELECTRA",
    heads=("classifier", "qa_outputs", "discriminator_predictions", "generator_predictions", "generator_lm_head"),
    dense=(*ENCODER_ONLY, "discriminator_predictions", "generator_predictions", "generator_lm_head"),
)
