# SPDX-License-Identifier: Apache-2.0
"""Accuracy, latency and throughput of a deployment's cells, each cell in a separate process."""
