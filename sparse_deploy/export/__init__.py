# SPDX-License-Identifier: Apache-2.0
"""Export of PyTorch models: ONNX by the dynamo exporter, OpenVINO IR from ONNX."""
