# SPDX-License-Identifier: Apache-2.0
"""Parts of the server process that need no model; what a whole server does is in tests/integration/test_serving.py."""

import pytest

from sparse_deploy.errors import ConfigError, ExitCode
from sparse_deploy.serving.server import listen, take_address


def test_of_two_servers_that_start_on_one_port_the_second_one_says_so():
    """Both may bind the address while neither listens; each loads its model in between."""
    with take_address("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with take_address("127.0.0.1", port) as second:
            listen(first, "127.0.0.1", port)
            with pytest.raises(
                ConfigError, match=rf"can't listen on 127.0.0.1:{port}: Address already in use"
            ) as found:
                listen(second, "127.0.0.1", port)
            assert found.value.exit_code is ExitCode.USAGE
