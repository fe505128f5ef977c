# SPDX-License-Identifier: Apache-2.0
"""What the tests of the gate share."""

from pathlib import Path

import pytest
from learnt_deployment import export_learnt


@pytest.fixture(scope="session")
def learnt(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``data``, ``checkpoint`` and ``deployment`` of a tiny model that answers 98 % of its text."""
    return export_learnt(sparse_encoder, tmp_path_factory.mktemp("learnt"))
