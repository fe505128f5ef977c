# SPDX-License-Identifier: Apache-2.0
"""What the speed scripts share: cells, models, rivals in processes of their own, the machine's state, statistics."""
