# SPDX-License-Identifier: Apache-2.0
"""The server of a deployment: the Open Inference Protocol v2 over HTTP, without torch or transformers."""
