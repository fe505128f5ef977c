# SPDX-License-Identifier: Apache-2.0
"""The measuring engine: worker processes, interleaved rounds of blocks, state of the machine, and ratios."""
