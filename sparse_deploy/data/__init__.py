# SPDX-License-Identifier: Apache-2.0
"""Tasks, their texts, tokens, and scores."""
