# SPDX-License-Identifier: Apache-2.0
"""ALBERT: BERT's layers with shared weights, after a projection of narrow embeddings."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture

ALBERT = Architecture(
    model_types=("albert",),
    title="ALBERT",
    heads=("classifier", "qa_outputs", "pooler", "predictions", "sop_classifier"),
    dense=(*ENCODER_ONLY, "embedding_hidden_mapping_in", "predictions.dense", "predictions.decoder"),
)
