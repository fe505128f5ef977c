# SPDX-License-Identifier: Apache-2.0
"""sparse-deploy: sparse BERT-family models from fine-tuning to a CPU server, every zero kept and proven."""

__version__ = "0.1.0"
