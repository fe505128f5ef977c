# SPDX-License-Identifier: Apache-2.0
"""The stages: each is one function that makes a new artifact from an artifact and a recipe."""
