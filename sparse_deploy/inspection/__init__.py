# SPDX-License-Identifier: Apache-2.0
"""What zeros a model holds, and what the runtimes of this machine do with them."""
