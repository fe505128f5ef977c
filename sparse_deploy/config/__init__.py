# SPDX-License-Identifier: Apache-2.0
"""Recipes: the typed schema, and loading from YAML with overrides."""

from sparse_deploy.config.loader import load_recipe, recipe_from_mapping
from sparse_deploy.config.schema import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_from_mapping"]
