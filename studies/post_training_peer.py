# SPDX-License-Identifier: Apache-2.0
"""The same pruning by llm-compressor (SparseGPT or Wanda), in a separate environment.

python -m venv peer; peer/bin/pip install llmcompressor==0.14.0.1
peer/bin/python -P studies/post_training_peer.py MODEL TEXTS.txt OUTPUT --pattern 1:2 --method sparsegpt
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModel, AutoTokenizer

METHODS = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}


def main() -> None:
    """Prune, save, and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pattern", default="1:2", help="N:M, or 0:0 for unstructured")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--method", choices=METHODS, default="sparsegpt")
    parser.add_argument("--samples", type=int, default=1024)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.backend_tokenizer.no_padding()
    model = AutoModel.from_pretrained(arguments.model, add_pooling_layer=False).eval()
    texts = [line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = torch.randperm(len(texts), generator=torch.Generator().manual_seed(42))[: arguments.samples].tolist()
    rows = [dict(tokenizer(texts[i], truncation=True, max_length=128)) for i in chosen]
    begin = time.monotonic()
    recipe = METHODS[arguments.method](
        sparsity=arguments.sparsity, mask_structure=arguments.pattern, targets=["Linear"], ignore=["re:.*pooler.*"]
    )
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=recipe,
        num_calibration_samples=len(rows),
        max_seq_length=128,
        processor=tokenizer,
        sequential_targets=["BertLayer"],
    )
    seconds = time.monotonic() - begin
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    zeros = [float((p == 0).float().mean()) for n, p in model.named_parameters() if p.ndim == 2 and "encoder" in n]
    print(json.dumps({
        "seconds": round(seconds, 1),
        "zeros": round(sum(zeros) / len(zeros), 4),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
