# SPDX-License-Identifier: Apache-2.0
"""The line itself: each stage is one function from an artifact and a recipe to a new artifact."""
