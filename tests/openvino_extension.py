# SPDX-License-Identifier: Apache-2.0
"""Skips tests that need OpenVINO's extension if it is not built."""

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
