# SPDX-License-Identifier: Apache-2.0
"""Number of streams that OpenVINO chooses for a number of threads; it depends on the CPU."""

from pathlib import Path


def streams_of_openvino(model: Path, threads: int) -> int:
    """Compile an IR with the throughput hint and read the number of streams."""
    import openvino

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
    return int(openvino.Core().compile_model(model, "CPU", settings).get_property("NUM_STREAMS"))
