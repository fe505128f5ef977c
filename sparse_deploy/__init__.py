# SPDX-License-Identifier: Apache-2.0
"""sparse-deploy: sparse BERT-family models from fine-tuning to a CPU server, with every zero kept and checked."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.31 writes a device id and a database of events to the home folder and uploads them, unless this is set
# before it is imported. Each process that runs a model imports this package first; children inherit the variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
