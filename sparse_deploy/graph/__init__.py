# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs: reading and writing of files, passes (one per module), and readers of weights."""
