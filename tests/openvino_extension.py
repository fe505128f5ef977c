# SPDX-License-Identifier: Apache-2.0
"""Whether OpenVINO's extension is built here; tests that need it are skipped where it is not."""

import pytest

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels.openvino_extension import openvino_library


def _why_not() -> str:
    try:
        openvino_library()
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


REASON = _why_not()
needs_extension = pytest.mark.skipif(bool(REASON), reason=REASON)
