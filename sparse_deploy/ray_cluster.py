# SPDX-License-Identifier: Apache-2.0
"""Connection to Ray: the cluster of RAY_ADDRESS, or a local one on this machine that ends with the process.

Ray executes any code that it receives (CVE-2023-48022), so a local cluster listens on the loopback address only, with a
random token. The environment variables of the shell configure the connection to a cluster of RAY_ADDRESS.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_deploy.errors import RuntimeUnavailableError, one_line
from sparse_deploy.machine import describe_machine

ADDRESS_VARIABLE = "RAY_ADDRESS"
SCRATCH_PREFIX = "sdray-"  # short, because the path of a socket in it is limited to 107 bytes
_OWN = "local"
_OBJECT_STORE_BYTES = 80 * 2**20  # Ray's minimum is 75 MiB, its default 30 % of the memory; messages are small
_LENGTH_OF_A_REASON = 300
_REMOVAL_SECONDS, _PAUSE_SECONDS = 5.0, 0.05


def own_cpus() -> int | None:
    """CPUs of a local Ray; None if RAY_ADDRESS names a cluster."""
    return describe_machine().usable_cpus if _address() == _OWN else None


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """Connect to Ray for the duration of a block.

    Yields:
        The initialized module ``ray``.

    Raises:
        RuntimeUnavailableError: Ray is not installed, or the cluster can't be reached.
    """
    address = _address()
    if address == _OWN:
        _close_off()
    ray = _load_ray()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as cleanup:
        if address == _OWN:
            scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
            cleanup.callback(_remove, scratch)
            options |= {
                "num_cpus": describe_machine().usable_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(scratch),
            }
        cleanup.callback(ray.shutdown)
        try:
            ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = one_line(error, _LENGTH_OF_A_REASON)
            raise RuntimeUnavailableError(f"Ray at {address!r} can't be used: {reason}") from error
        signal.signal(signal.SIGTERM, before)  # Ray's own handler exits without cleaning up
        yield ray


def _remove(scratch: Path) -> None:
    """Remove a folder to which Ray's processes may still write while they end."""
    limit = time.monotonic() + _REMOVAL_SECONDS
    while scratch.exists() and time.monotonic() < limit:
        shutil.rmtree(scratch, ignore_errors=True)
        time.sleep(_PAUSE_SECONDS)


def _address() -> str:
    return os.environ.get(ADDRESS_VARIABLE) or _OWN


def _close_off() -> None:
    """Set the environment variables that Ray reads on import, for a local cluster."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray 2.60 replaces a node address of 127.0.0.1 by the machine's and then listens on every interface. Without
        # clusters, which this switches off on any system, all its sockets are on the loopback address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


def _load_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RuntimeUnavailableError(
            "this needs Ray, which is not installed here: pip install 'sparse-deploy[ray]'"
        ) from error
    return ray
