# SPDX-License-Identifier: Apache-2.0
"""INT8: calibration, static quantization by Neural Compressor, dynamic quantization by ONNX Runtime."""
