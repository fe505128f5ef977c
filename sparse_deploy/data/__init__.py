# SPDX-License-Identifier: Apache-2.0
"""Tasks, their text, its tokens, and how answers are scored."""
