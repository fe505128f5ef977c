# SPDX-License-Identifier: Apache-2.0
"""The gate: paired statistics, and verdicts on the goals of a recipe."""
