# SPDX-License-Identifier: Apache-2.0
"""The largest counts in recipes and options: a larger one is a mistake, and would take minutes or all memory."""

# Threads of one model: no server has more CPUs.
MAX_THREADS = 1024
# Largest number of sequences in a batch.
MAX_BATCH = 4096
# Servers with one port.
MAX_REPLICAS = 10_000
