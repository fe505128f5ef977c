# SPDX-License-Identifier: Apache-2.0
"""Selection of zeros: pruning methods with a common interface, by magnitude and second order."""
