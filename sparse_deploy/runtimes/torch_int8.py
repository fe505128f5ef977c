# SPDX-License-Identifier: Apache-2.0
"""Dynamic INT8 in PyTorch: a baseline for the exported INT8 files."""

import warnings

import torch

from sparse_deploy.architectures import without_head
from sparse_deploy.errors import RuntimeUnavailableError

# Linear 384 -> 1536 -> 384 on 32 tokens, one thread, AVX512-VNNI: FP32 913 us, x86 322, fbgemm 290, onednn 318,
# qnnpack 1704 (slower than FP32, so never taken). x86 picks fbgemm or oneDNN per shape; on 8 tokens oneDNN alone
# takes 209 us against 121.
_ENGINES = ("x86", "fbgemm", "onednn")


def quantize_linears(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the Linear layers, but the head, by dynamic INT8 ones.

    Weights are symmetric int8 per output channel with zero point 0 (zeros stay zeros), activations 7-bit with a scale
    per batch: the default of PyTorch, which is safe from saturation on CPUs without VNNI.

    Args:
        model: FP32 model; unchanged.

    Returns:
        A copy in eval mode with INT8 layers. It computes in the engine that was chosen here, for the whole process.

    Raises:
        RuntimeUnavailableError: this build of PyTorch has no INT8 engine for this CPU.
    """
    engine = next((name for name in _ENGINES if name in torch.backends.quantized.supported_engines), None)
    if engine is None:
        raise RuntimeUnavailableError(
            f"PyTorch INT8: expected one of the engines {', '.join(_ENGINES)}, found "
            f"{torch.backends.quantized.supported_engines}; leave pytorch out of bench.runtimes or int8 out of "
            f"bench.precisions"
        )
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        # torch.ao.quantization is deprecated in favour of torchao, whose INT8 needs torch.compile to be fast.
        warnings.simplefilter("ignore")
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        shapes = [(module.out_features, module.in_features) for module in linears.values()]
        quantized: torch.nn.Module = quantize_dynamic(  # type: ignore[no-untyped-call]
            model.eval(), qconfig_spec=dict.fromkeys(without_head(list(linears), shapes), per_channel_dynamic_qconfig)
        )
    return quantized
