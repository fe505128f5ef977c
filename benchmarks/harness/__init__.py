# SPDX-License-Identifier: Apache-2.0
"""Shared code of the speed scripts: cells, models, a process per runtime, the state of the machine, statistics."""
