# SPDX-License-Identifier: Apache-2.0
"""Dynamic INT8 in PyTorch: a baseline for the exported INT8 files."""

import warnings

import torch

from sparse_deploy.architectures import without_head
from sparse_deploy.errors import RuntimeUnavailableError

# In order of preference. x86 selects fbgemm or oneDNN per shape; qnnpack is slower than FP32 on x86 CPUs, so it is not
# used.
_ENGINES = ("x86", "fbgemm", "onednn")


def quantize_linears(model: torch.nn.Module) -> torch.nn.Module:
    """Replace the Linear layers, except the head, by dynamic INT8 layers.

    Weights are symmetric int8 per output channel with zero point 0 (zeros stay zeros), activations 7-bit with a scale
    per batch: the default of PyTorch, which is safe from saturation on CPUs without VNNI.

    Args:
        model: FP32 model; unchanged.

    Returns:
        A copy in eval mode with INT8 layers. The chosen INT8 engine is set for the whole process.

    Raises:
        RuntimeUnavailableError: this build of PyTorch has no INT8 engine for this CPU.
    """
    engine = next((name for name in _ENGINES if name in torch.backends.quantized.supported_engines), None)
    if engine is None:
        raise RuntimeUnavailableError(
            f"PyTorch INT8: expected one of the engines {', '.join(_ENGINES)}, found "
            f"{torch.backends.quantized.supported_engines}; remove pytorch from bench.runtimes or int8 from "
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
