# SPDX-License-Identifier: Apache-2.0
"""BERT, and small models of its architecture: MiniLM, TinyBERT, Google's L-2 H-128."""

from sparse_deploy.architectures.architecture import ENCODER_ONLY, Architecture

BERT = Architecture(
    model_types=("bert",),
    title="BERT",
    heads=("classifier", "qa_outputs", "pooler", "cls"),
    dense=(*ENCODER_ONLY, "cls.predictions"),
)
