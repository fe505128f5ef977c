# SPDX-License-Identifier: Apache-2.0
"""OpenVINO with the sparse operators on ``openvino_sparse.xml``."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels import loader
from sparse_deploy.kernels.openvino_extension import ready_openvino_library
from sparse_deploy.runtimes.openvino import OpenVinoRuntime, open_ir
from sparse_deploy.runtimes.protocol import Hint, Session, require_file

SPARSE_IR_FILE = "openvino_sparse.xml"


class OpenVinoSparseRuntime:
    """See :class:`sparse_deploy.runtimes.protocol.Runtime`."""

    name: ClassVar[str] = "openvino-sparse"
    files: ClassVar[Mapping[str, str]] = {"int8": SPARSE_IR_FILE}
    notes: ClassVar[Mapping[str, str]] = {
        "int8": "OpenVINO with the sparse operators of sparse-deploy; other operators run in FP32"
    }
    hints: ClassVar[tuple[Hint, ...]] = ("latency", "throughput")

    def available(self) -> bool:
        """See :meth:`Runtime.available`; false if there is no extension and none can be built."""
        if not OpenVinoRuntime().available():
            return False
        try:
            ready_openvino_library()
        except RuntimeUnavailableError:
            return False
        return True

    def version(self) -> str:
        """OpenVINO's version and the instruction set of the operators; see :meth:`Runtime.version`."""
        version = OpenVinoRuntime().version()
        ready_openvino_library()
        return f"{version} {loader.instruction_set().name}"

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        OpenVinoRuntime().version()
        return open_ir(path, threads, hint, ready_openvino_library())
