# SPDX-License-Identifier: Apache-2.0
"""The C header of the kernels for ctypes: structures and signatures, with its names and in its order."""

import ctypes
from functools import cache
from typing import Any

from sparse_deploy.kernels.loader import KERNELS, open_library

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "tanh")
LINEARS = ("query", "key", "value", "attention_output", "intermediate", "output")

Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
Run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, Task, ctypes.c_void_p, ctypes.c_size_t)


class Error(ctypes.Structure):
    """``sd_error``."""

    _fields_ = (("message", ctypes.c_char * 256),)


class Pool(ctypes.Structure):
    """``sd_pool``."""

    _fields_ = (("context", ctypes.c_void_p), ("run", Run), ("threads", ctypes.c_int32))


class Quantization(ctypes.Structure):
    """``sd_quantization``."""

    _fields_ = (("scale", ctypes.c_float), ("zero_point", ctypes.c_int32))


class WeightInfo(ctypes.Structure):
    """``sd_weight_info``."""

    _fields_ = (
        ("n", ctypes.c_int64), ("k", ctypes.c_int64),
        ("nonzeros", ctypes.c_int64), ("packed_bytes", ctypes.c_int64),
        ("fill", ctypes.c_double), ("cost", ctypes.c_double),
        ("layout", ctypes.c_char * 24), ("pattern", ctypes.c_char * 24),
    )  # fmt: skip


class LinearConfig(ctypes.Structure):
    """``sd_linear_config``."""

    _fields_ = (
        ("blob", ctypes.c_void_p), ("blob_size", ctypes.c_size_t),
        ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("activation", ctypes.c_int), ("quantization", Quantization),
        ("layout", ctypes.c_char_p), ("isa", ctypes.c_char_p),
    )  # fmt: skip


class LayerLinear(ctypes.Structure):
    """``sd_layer_config.linears``."""

    _fields_ = (
        ("blob", ctypes.c_void_p), ("blob_size", ctypes.c_size_t),
        ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
    )  # fmt: skip


class LayerConfig(ctypes.Structure):
    """``sd_layer_config``."""

    _fields_ = (
        ("hidden", ctypes.c_int64), ("intermediate", ctypes.c_int64), ("heads", ctypes.c_int64),
        ("epsilon", ctypes.c_float), ("activation", ctypes.c_int),
        ("linears", LayerLinear * len(LINEARS)),
        ("attention_gamma", ctypes.c_void_p), ("attention_beta", ctypes.c_void_p),
        ("output_gamma", ctypes.c_void_p), ("output_beta", ctypes.c_void_p),
        ("output_tokens", ctypes.c_int64),
        ("unpadded_input", ctypes.c_int32), ("unpadded_output", ctypes.c_int32),
        ("position_bias", ctypes.c_int32), ("attention_scale", ctypes.c_float), ("output_epsilon", ctypes.c_float),
        ("norm_first", ctypes.c_int32), ("gated", ctypes.c_int32),
        ("packed_qkv", ctypes.c_int32), ("rotary", ctypes.c_int32), ("window", ctypes.c_int64),
        ("quantization", Quantization * 4),
        ("isa", ctypes.c_char_p),
    )  # fmt: skip


class LayerInputs(ctypes.Structure):
    """``sd_layer_inputs``."""

    _fields_ = (
        ("x", ctypes.c_void_p), ("mask", ctypes.c_void_p),
        ("batch", ctypes.c_int64), ("sequence", ctypes.c_int64),
        ("bias", ctypes.c_void_p), ("bias_batch", ctypes.c_int64),
        ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p),
    )  # fmt: skip


@cache
def core() -> ctypes.CDLL:
    """The kernel library with its functions' types set.

    Raises:
        RuntimeUnavailableError: the library is missing or of another version.
    """
    library = open_library(KERNELS)
    pointer, size, i64, error = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.POINTER(Error)
    pool = ctypes.POINTER(Pool)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sd_weight_create": (pointer, [pointer, size, ctypes.c_char_p, ctypes.c_char_p, error]),
        "sd_weight_destroy": (None, [pointer]),
        "sd_weight_describe": (None, [pointer, ctypes.POINTER(WeightInfo)]),
        "sd_weight_unpack": (None, [pointer, pointer]),
        "sd_matmul_i32": (ctypes.c_int, [pointer, pointer, i64, pointer, pool, error]),
        "sd_linear_create": (pointer, [ctypes.POINTER(LinearConfig), error]),
        "sd_linear_destroy": (None, [pointer]),
        "sd_linear_weight": (pointer, [pointer]),
        "sd_linear_run": (ctypes.c_int, [pointer, pointer, i64, pointer, pool, error]),
        "sd_layer_create": (pointer, [ctypes.POINTER(LayerConfig), error]),
        "sd_layer_destroy": (None, [pointer]),
        "sd_layer_weight": (pointer, [pointer, ctypes.c_int]),
        "sd_layer_run": (ctypes.c_int, [pointer, ctypes.POINTER(LayerInputs), pointer, pool, error]),
        "sd_fail_allocation": (i64, [i64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
