# SPDX-License-Identifier: Apache-2.0
"""Patterns, masks and records of zeros, with numpy only."""
