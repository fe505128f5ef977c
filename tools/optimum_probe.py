# SPDX-License-Identifier: Apache-2.0
"""Opens a deployment with Optimum and writes its logits; runs in Optimum's environment (see check_optimum.py).

Imports nothing of sparse_deploy, which is not installed there. Reads a JSON request from standard input.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

# As in a user's program. The hint prevents BF16 in OpenVINO on CPUs with BF16.
OPENVINO_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
OUTPUTS = ("logits", "start_logits", "end_logits", "sentence_embedding")


def main() -> None:
    """Answer one request (written by ``check_optimum._probe``); a file of None means the default file."""
    request = json.load(sys.stdin)
    library = request["library"]
    answer = {
        "versions": {package: importlib.metadata.version(package) for package in (library, "transformers")},
        "files": [answer_file(request, file) for file in request["files"]],
    }
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def answer_file(request: dict[str, Any], file: str | None) -> dict[str, Any]:
    """Logits of all batches from one file, or the reason of the failure."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(request["folder"])
        model = open_model(request["library"], request["model_class"], request["folder"], file)
        answers = []
        for batch in request["batches"]:
            inputs = tokenizer(*batch, **request["tokenizer_arguments"], return_tensors="pt")
            outputs = model(**inputs)
            logits = [outputs[name].tolist() for name in OUTPUTS if name in outputs]
            answers.append({"input_ids": inputs["input_ids"].tolist(), "outputs": logits})
    except Exception as error:  # any error of Optimum is a result; the other files are still checked
        return {"problem": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"model_class": type(model).__name__, "batches": answers}


def open_model(library: str, model_class: str, folder: str, file: str | None) -> Any:
    """The Optimum model of a task over one file of the folder.

    Args:
        library: distribution name.
        model_class: the suffix after ``ORTModel`` or ``OVModel`` in the class's name.
        folder: the deployment.
        file: file name; None for the file that Optimum selects.
    """
    chosen = {} if file is None else {"file_name": file}
    if library == "optimum-onnx":
        from optimum import onnxruntime

        return getattr(onnxruntime, f"ORTModel{model_class}").from_pretrained(folder, **chosen)
    from optimum import intel

    opened: Any = getattr(intel, f"OVModel{model_class}")
    return opened.from_pretrained(folder, ov_config=OPENVINO_SETTINGS, **chosen)


if __name__ == "__main__":
    main()
