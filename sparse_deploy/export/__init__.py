# SPDX-License-Identifier: Apache-2.0
"""PyTorch to portable files: ONNX by the dynamo exporter, OpenVINO IR from ONNX."""
