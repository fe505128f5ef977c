# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs: one file in and out, one pass per module, and the readers of their weights."""
