# SPDX-License-Identifier: Apache-2.0
"""Sweeps: one recipe in many variants, each an idempotent job of the command line, on this machine or on Ray."""
