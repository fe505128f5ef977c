# SPDX-License-Identifier: Apache-2.0
"""No runtime leaves usage data in the home folder, or makes any to send."""

import os
import subprocess
import sys

CODE = """
import sys
from pathlib import Path
import numpy as np
from sparse_deploy.runtimes import get_runtime
session = get_runtime("onnxruntime").open(Path(sys.argv[1]), "fp32", 1)
ones = np.ones((1, 4), dtype=np.int64)
session.run({"input_ids": ones, "attention_mask": ones, "token_type_ids": ones * 0})
"""


def test_onnx_runtime_writes_no_device_id_and_no_events(tiny_deployment, tmp_path):
    """Without the variable that the package sets, ONNX Runtime 1.31 writes .cache/Microsoft/.../onnxruntime.db."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CODE, str(tiny_deployment)], env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())
