# SPDX-License-Identifier: Apache-2.0
"""How zeros are chosen: pruning methods behind one interface, by magnitude and of second order."""
