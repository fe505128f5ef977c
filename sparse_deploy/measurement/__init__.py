# SPDX-License-Identifier: Apache-2.0
"""The measuring engine: worker processes, interleaved rounds of blocks, the machine's state beside each, and ratios."""
