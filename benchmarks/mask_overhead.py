# SPDX-License-Identifier: Apache-2.0
"""Overhead of masks per training step: masked against unmasked, interleaved in one process.

Prints a table, or with ``--json`` one object per cell. The models have random weights: the cost depends on shapes only.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.machine import describe_machine
from sparse_deploy.pruning.magnitude import magnitude_masks
from sparse_deploy.pruning.method import prunable_parameters
from sparse_deploy.sparsity.pattern import UNSTRUCTURED
from sparse_deploy.training.mask_lock import MaskLock

MODELS = {
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert-base": BertConfig(),
}
# Batch and tokens: SST-2's mean length, and GLUE's usual window.
CELLS = [
    ("minilm", 64, 16, "bf16"),
    ("minilm", 32, 128, "bf16"),
    ("minilm", 32, 128, "fp32"),
    ("bert-base", 32, 128, "bf16"),
]


def measure(model_name: str, batch: int, tokens: int, precision: str, pairs: int) -> dict[str, Any]:
    """Time ``pairs`` masked and as many unmasked optimizer steps, alternating; the order is swapped in every pair."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(MODELS[model_name])
    parameters = prunable_parameters(model, DEFAULT_EXCLUDE)
    lock = MaskLock(parameters, magnitude_masks(parameters, UNSTRUCTURED, 0.7, "layer"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    inputs = {"input_ids": torch.randint(5, 30000, (batch, tokens)), "labels": torch.arange(batch) % 2}

    def step(masked: bool) -> float:
        if masked:
            lock.hook_gradients()
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if masked:
            lock.apply()
        optimizer.zero_grad()
        elapsed = time.perf_counter() - start
        lock.unhook_gradients()
        return elapsed

    step(True), step(False)
    ratios, plain = [], []
    for pair in range(pairs):
        first_masked = pair % 2 == 0
        first, second = step(first_masked), step(not first_masked)
        masked, unmasked = (first, second) if first_masked else (second, first)
        ratios.append(masked / unmasked)
        plain.append(unmasked)
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "cell": f"{model_name}-b{batch}-s{tokens}-{precision}",
        "unmasked_ms": round(statistics.median(plain) * 1e3, 1),
        "overhead_percent": round((median - 1) * 100, 2),
        "quartiles_percent": [round((low - 1) * 100, 2), round((high - 1) * 100, 2)],
        "pairs": pairs,
    }


def main() -> None:
    """Measure every cell and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--cell", action="append", help="only cells whose name starts with this text")
    arguments = parser.parse_args()
    machine = describe_machine()
    torch.set_num_threads(machine.usable_cpus)
    if not arguments.json:
        print(f"{machine.cpu_model}, {machine.usable_cpus} threads, torch {torch.__version__}")
        print(f"{'cell':<28}{'step ms':>10}{'overhead %':>12}   quartiles %")
    for model_name, batch, tokens, precision in CELLS:
        name = f"{model_name}-b{batch}-s{tokens}-{precision}"
        if arguments.cell and not any(name.startswith(prefix) for prefix in arguments.cell):
            continue
        cell = measure(model_name, batch, tokens, precision, arguments.pairs)
        if arguments.json:
            print(json.dumps(cell | {"machine": machine.cpu_model, "torch": torch.__version__}), flush=True)
        else:
            low, high = cell["quartiles_percent"]
            print(
                f"{cell['cell']:<28}{cell['unmasked_ms']:>10}{cell['overhead_percent']:>12}   {low} .. {high}",
                flush=True,
            )


if __name__ == "__main__":
    main()
