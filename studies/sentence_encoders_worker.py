# SPDX-License-Identifier: Apache-2.0
"""A worker process that encodes sentences with this package or with sentence-transformers.

Reads a JSON object per line from standard input and answers each with a JSON object: first the model to open, then
``{"command": "pass"}`` (encode all texts once; seconds) or ``{"command": "vectors", "path": ...}`` (encode and save).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Encode = Callable[[list[str]], Array]


def main() -> None:
    """Answer commands until standard input ends."""
    request = json.loads(sys.stdin.readline())
    opener = {"sentence-transformers": _sentence_transformers, "sparse-deploy": _sparse_deploy}[request["library"]]
    encode, version = opener(request)
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    _answer({"version": version})
    for line in sys.stdin:
        command = json.loads(line)
        begin = time.perf_counter()
        vectors = encode(command.get("texts") or texts)
        seconds = time.perf_counter() - begin
        if command["command"] == "vectors":
            np.save(command["path"], vectors)
        _answer({"seconds": seconds})


def _sentence_transformers(request: dict[str, Any]) -> tuple[Encode, str]:
    import torch
    from sentence_transformers import SentenceTransformer, __version__

    torch.set_num_threads(request["threads"])
    settings: dict[str, Any] = {}
    version = f"sentence-transformers {__version__}, torch {torch.__version__}"
    if request.get("file"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        settings = {"file_name": request["file"], "provider": "CPUExecutionProvider", "session_options": options}
        version = f"sentence-transformers {__version__}, onnxruntime {onnxruntime.__version__}"
    model = SentenceTransformer(
        request["folder"], device="cpu", backend="onnx" if settings else "torch", model_kwargs=settings
    )
    batch = request["batch"]
    return lambda texts: model.encode(texts, batch_size=batch, show_progress_bar=False), version


def _sparse_deploy(request: dict[str, Any]) -> tuple[Encode, str]:
    from sparse_deploy.data.batches import pad_batch
    from sparse_deploy.runtimes import get_runtime
    from sparse_deploy.serving.text import TextEncoder

    folder, batch = Path(request["folder"]), request["batch"]
    runtime = get_runtime(request["runtime"])
    session = runtime.open(folder, "int8", request["threads"])
    tokenizer = TextEncoder(folder, request["max_length"])

    def encode(texts: list[str]) -> Array:
        features, _ = tokenizer.encode(texts)
        # The longest first, as sentence-transformers does: a batch then has little padding.
        order = np.argsort([-len(feature["input_ids"]) for feature in features], kind="stable")
        parts = [
            session.run(pad_batch([features[place] for place in order[begin : begin + batch]]))[0]
            for begin in range(0, len(order), batch)
        ]
        vectors = np.concatenate(parts)
        return vectors[np.argsort(order)]

    return encode, f"{request['runtime']} {runtime.version()}"


def _answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
