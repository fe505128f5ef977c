# SPDX-License-Identifier: Apache-2.0
"""The largest counts that recipes and options take: a larger one is a slip, and would cost minutes or all memory."""

# Of one model: no server has more CPUs.
MAX_THREADS = 1024
# Largest number of sequences in a batch.
MAX_BATCH = 4096
# Servers behind one port.
MAX_REPLICAS = 10_000
