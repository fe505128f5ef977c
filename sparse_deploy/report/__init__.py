# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found, as JSON, Markdown and HTML, and whether the goals of the recipe are met."""
