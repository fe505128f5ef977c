# SPDX-License-Identifier: Apache-2.0
"""The zeros of a model, and their use in the runtimes of this machine."""
