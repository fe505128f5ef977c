# SPDX-License-Identifier: Apache-2.0
"""The report of a benchmark as JSON, Markdown and HTML, with the verdicts on the goals of the recipe."""
