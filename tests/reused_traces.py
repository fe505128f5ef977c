# SPDX-License-Identifier: Apache-2.0
"""Caches torch's traces for the tests of one run: tracing takes most of the time of an export.

Two traces are equal if the model's class, configuration and weights and all other arguments are equal. ONNX graphs are
cached in files, for all workers of the run; results of ``torch.export`` are cached per process.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_MOST_PARAMETERS = 1_000_000  # of a cached model: only tiny models


def _key(module: Any, *others: Any) -> str | None:
    """The cache key, equal for equal traces; None for a model that is not cached."""
    state = module.state_dict(keep_vars=False)
    if sum(tensor.numel() for tensor in state.values()) > _MOST_PARAMETERS:
        return None
    inner = getattr(module, "model", None)
    digest = hashlib.sha256(repr((type(module), type(inner), getattr(module, "code", ""), others)).encode())
    digest.update(inner.config.to_json_string(use_diff=False).encode() if hasattr(inner, "config") else b"")
    digest.update(
        repr(sorted((k, v) for k, v in vars(module).items() if isinstance(v, (str, bool, int, tuple)))).encode()
    )
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def reused_traces(folder: Path) -> Iterator[None]:
    """Cache ONNX graphs in the folder, and exported graphs in memory, inside the block."""
    import onnx
    import onnx_ir as ir

    from sparse_deploy.export import exporter
    from sparse_deploy.quantization import neural_compressor

    to_onnx, export = exporter.to_onnx, neural_compressor._export
    exported: dict[str, Any] = {}
    folder.mkdir(exist_ok=True)

    def kept_onnx(module: Any, example_inputs: Any, names: Any, opset: int) -> ir.Model:
        key = _key(module, [tuple(one.shape) for one in example_inputs], tuple(names), opset)
        kept = folder / f"{key}.onnx"
        if key and kept.is_file():
            return ir.from_proto(onnx.load(kept))
        model = to_onnx(module, example_inputs, names, opset)
        if key:
            written = folder / f"{key}.{os.getpid()}"
            written.write_bytes(ir.to_proto(model).SerializeToString())
            written.rename(kept)
        return model

    def kept_export(model: Any) -> Any:
        return _kept(exported, _key(model), lambda: export(model))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "to_onnx", kept_onnx)
        patch.setattr(neural_compressor, "_export", kept_export)
        yield


def _kept(known: dict[str, Any], key: str | None, make: Callable[[], Any]) -> Any:
    if key is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]
