# SPDX-License-Identifier: Apache-2.0
"""Builds the serve image and starts it. Takes minutes, root and Debian: SPARSE_DEPLOY_TEST_IMAGES=1 switches it on."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.environ.get("SPARSE_DEPLOY_TEST_IMAGES") != "1", reason="SPARSE_DEPLOY_TEST_IMAGES is not 1")
@pytest.mark.timeout(3000)
def test_the_serve_image_is_built_and_its_server_passes_every_check(tiny_deployment):
    done = subprocess.run(
        [ROOT / "tools" / "build_images.sh", "-d", tiny_deployment, "serve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   SIGTERM ends it with 0" in done.stdout
