# SPDX-License-Identifier: Apache-2.0
"""Patterns, masks and records of zeros. Knows numpy and nothing of any framework."""
