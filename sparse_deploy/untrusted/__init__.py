# SPDX-License-Identifier: Apache-2.0
"""Checks of model files in plain Python, before any native parser reads them; see ``docs/security.md``."""
