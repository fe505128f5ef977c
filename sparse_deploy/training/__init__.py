# SPDX-License-Identifier: Apache-2.0
"""Masked fine-tuning on the stock Hugging Face Trainer: mask lock, pruning, distillation, resumable runs."""
