# SPDX-License-Identifier: Apache-2.0
"""How many streams OpenVINO itself makes of some threads: its choice differs between CPUs."""

from pathlib import Path


def streams_of_openvino(model: Path, threads: int) -> int:
    """Compile an IR with the throughput hint and ask."""
    import openvino

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
    return int(openvino.Core().compile_model(model, "CPU", settings).get_property("NUM_STREAMS"))
