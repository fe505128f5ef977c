# SPDX-License-Identifier: Apache-2.0
"""The command line: one file per command, no logic, one error boundary. Heavy imports stay inside the commands."""
