# SPDX-License-Identifier: Apache-2.0
"""PyTorch in eager mode on the checkpoint inside a deployment: the baseline of all other cells."""

import contextlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sparse_deploy.architectures import architecture_of
from sparse_deploy.data.resolve import kind_of_model
from sparse_deploy.data.tasks import KINDS, Head, Pooling, TaskKind
from sparse_deploy.data.tasks.pooling import read_pooling
from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError, one_line
from sparse_deploy.runtimes.protocol import (
    Array,
    Hint,
    InputContract,
    Session,
    as_float32,
    read_config,
    require_file,
)

if TYPE_CHECKING:
    import torch


class PyTorchSession:
    """A transformers model under ``inference_mode``, with scaled-dot-product attention if its class has it."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # may be set only once per process, and before any parallel work
            torch.set_num_interop_threads(1)
        self._torch = torch
        self._path = path
        config = read_config(path.parent)
        self._inputs = InputContract.of(architecture_of(config).inputs(config), path)
        self._kind = KINDS[kind_of_model(path.parent, config, assume=TaskKind.EMBEDDING)]
        self._pooling = read_pooling(path.parent) or Pooling() if self._kind.head is Head.NONE else None
        model = _load_model(path, self._kind.head)
        if precision == "int8":
            from sparse_deploy.runtimes.torch_int8 import quantize_linears

            model = quantize_linears(model)
        self._model: torch.nn.Module | None = model

    def run(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        """See :meth:`Session.run`."""
        taken = self._inputs.select(inputs)
        if self._model is None:
            raise ArtifactError(f"{self._path}: the session was closed")
        try:
            with self._torch.inference_mode():
                tensors = {name: self._torch.from_numpy(array) for name, array in taken.items()}
                result = self._model(**tensors)
                if self._pooling is not None:
                    result = {
                        "sentence_embedding": self._pooling(result["last_hidden_state"], tensors["attention_mask"])
                    }
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise ArtifactError(f"{self._path}: PyTorch failed on a batch: {one_line(error)}") from error
        return tuple(as_float32(result[output.name].numpy()) for output in self._kind.outputs)

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._model = None


class PyTorchRuntime:
    """See :class:`sparse_deploy.runtimes.protocol.Runtime`."""

    name: ClassVar[str] = "pytorch"
    files: ClassVar[Mapping[str, str]] = {"fp32": "model.safetensors", "int8": "model.safetensors"}
    notes: ClassVar[Mapping[str, str]] = {
        "int8": "the FP32 checkpoint with its linear layers quantized to INT8 while loading (dynamic activations)"
    }
    hints: ClassVar[tuple[Hint, ...]] = ("latency",)

    def available(self) -> bool:
        """See :meth:`Runtime.available`."""
        return all(importlib.util.find_spec(package) is not None for package in ("torch", "transformers"))

    def version(self) -> str:
        """See :meth:`Runtime.version`."""
        try:
            import torch

            # transformers imports a model's code on first use of its name; do this before the load is timed.
            from transformers import (  # noqa: F401
                AutoModel,
                AutoModelForQuestionAnswering,
                AutoModelForSequenceClassification,
                AutoModelForTokenClassification,
                BertModel,
            )
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"torch or transformers can't be imported ({error}); install both with: pip install sparse-deploy"
            ) from error
        return str(torch.__version__)

    def open(self, folder: Path, precision: str, threads: int, hint: Hint = "latency") -> Session:
        """See :meth:`Runtime.open`."""
        path = require_file(self.name, folder, self.files, precision)
        self.version()
        return PyTorchSession(path, precision, threads)


def _load_model(path: Path, head: Head) -> "torch.nn.Module":
    import torch
    import transformers

    auto = getattr(transformers, f"Auto{'Model' * (head is not Head.NONE)}{head.suffix}")
    try:
        model = auto.from_pretrained(
            path.parent,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            disable_mmap=True,  # with a mapped file, a write to it would change the weights or end the process
        )
    except Exception as error:  # safetensors and transformers raise their own classes
        raise ArtifactError(f"{path}: PyTorch can't load the checkpoint: {one_line(error)}; export again") from error
    loaded: torch.nn.Module = model.eval()
    return loaded
