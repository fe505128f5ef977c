# SPDX-License-Identifier: Apache-2.0
"""``python -m sparse_deploy``: the command line, as ``torchrun -m sparse_deploy finetune`` needs it."""

from sparse_deploy.cli.main import main

if __name__ == "__main__":
    main()
