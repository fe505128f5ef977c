# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy`` and ``python -m sparse_deploy``, as ``torchrun -m sparse_deploy finetune`` needs it."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line. Ctrl-C during the imports has the same exit code as later."""
    try:
        from sparse_deploy.cli.main import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        print("sparse-deploy: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
