# SPDX-License-Identifier: Apache-2.0
"""The gate: paired statistics, and the verdicts that they allow on the goals of a recipe."""
