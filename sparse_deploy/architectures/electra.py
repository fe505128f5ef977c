# SPDX-License-Identifier: Apache-2.0
"""ELECTRA: BERT's layers, embeddings that may be narrower than they are, and two heads of pretraining."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture

ELECTRA = Architecture(
    model_types=("electra",),
    title="ELECTRA",
    heads=("classifier", "qa_outputs", "discriminator_predictions", "generator_predictions", "generator_lm_head"),
    dense=(*ENCODER_ONLY, "discriminator_predictions", "generator_predictions", "generator_lm_head"),
)
