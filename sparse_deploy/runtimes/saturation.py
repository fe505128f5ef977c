# SPDX-License-Identifier: Apache-2.0
"""INT8 files whose products saturate on this CPU: handling in ONNX Runtime and OpenVINO (``docs/int8.md``)."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes.sparse_decompression import INT8_ACTIVATIONS
from sparse_deploy.sparsity.weight_grid import NEIGHBOUR_SUM_KEY, saturates

if TYPE_CHECKING:
    from sparse_deploy.graph.openvino_ir import IrWeight

# ONNX Runtime then converts s8 weights to u8 and adds products in 32 bits (its kOrtSessionOptionsAvx2PrecisionMode).
EXACT_MODE = ("session.x64quantprecision", "1")


def needs_exact_mode(session: Any) -> bool:
    """Whether an INT8 file may saturate in ONNX Runtime on this CPU, by its metadata; true without metadata."""
    if not describe_machine().saturates:
        return False
    stored = session.get_modelmeta().custom_metadata_map.get(NEIGHBOUR_SUM_KEY, "")
    return not stored.isdecimal() or saturates(int(stored))


def exact_mode_warning() -> str:
    """The warning of a session in the exact mode."""
    return (
        f"its 8-bit weights would saturate on this CPU ({describe_machine().cpu_model}, no VNNI), so ONNX Runtime "
        f"multiplies u8 by u8 ({EXACT_MODE[0]}): exact, but slower; export again with quantization.target_cpu any"
    )


def refuse_saturating_ir(read: "Callable[[], Iterable[IrWeight]]") -> None:
    """Refuse an IR whose INT8 products saturate in OpenVINO on this CPU, because OpenVINO has no exact mode.

    Args:
        read: function that returns the weights; not called on a CPU with VNNI.

    Raises:
        RuntimeUnavailableError: the IR has such products.
    """
    machine = describe_machine()
    for weight in read() if machine.saturates else ():
        if weight.activation_type in INT8_ACTIVATIONS and saturates(weight.largest_neighbour_sum()):
            raise RuntimeUnavailableError(
                f"its 8-bit weights (such as {weight.name}) saturate in OpenVINO on this CPU ({machine.cpu_model}, no "
                f"VNNI), and the results would be wrong; export again with quantization.target_cpu any, or use another "
                f"runtime"
            )
