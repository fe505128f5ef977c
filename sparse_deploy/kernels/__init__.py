# SPDX-License-Identifier: Apache-2.0
"""The sparse kernels: C++ sources (``csrc``), the compiled libraries' loader, and the operators in numpy."""
