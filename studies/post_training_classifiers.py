# SPDX-License-Identifier: Apache-2.0
"""Measurements of ``post_training.py`` on classifiers that are fine-tuned from MiniLM."""

import json
import time
from pathlib import Path
from typing import Any

from post_training_common import ENCODER, RECORDS, Options, Pattern, key_of, pruned

# Scored validation rows: all of SST-2, the first 1,500 of QNLI.
ROWS = {"sst2": 872, "qnli": 1500}
# Training rows of the dense model, one pass: a small budget.
TRAINED_ON = {"sst2": 20_000, "qnli": 6_400}
MARGIN = 0.01


def classifier_cell(
    options: Options,
    task: str,
    pattern: Pattern | None,
    method: str = "second-order",
    *,
    recover: bool = False,
) -> dict[str, Any]:
    """Accuracy of a classifier, dense or pruned, with the gate's verdict against the dense one."""
    folder = dense_classifier(options, task)
    facts: dict[str, Any] = {}
    if pattern is not None:
        folder, facts = pruned(options, str(folder), pattern, method, task, recover=recover)
    return {**score(options, task, folder), **facts}


def gradual_cell(options: Options, task: str, pattern: Pattern) -> dict[str, Any]:
    """The gradual magnitude recipe with labels and teacher; steps and batch size equal the recovery's."""
    from sparse_deploy.config import recipe_from_mapping
    from sparse_deploy.stages.finetune import finetune

    record = json.loads((RECORDS / f"{task}-{key_of(pattern)}-recovered.json").read_text())
    dense, output = str(dense_classifier(options, task)), options.work / f"{task}-{key_of(pattern)}-gradual"
    name, target = pattern
    data = {
        "name": output.name,
        "task": task,
        "model": {"name_or_path": dense},
        "sparsity": {"mode": "prune", "pattern": name, "target": target or 0.5, "end": 0.4},
        "distillation": {"teacher": dense, "temperature": 2.0, "alpha": 0.8},
        "data": {"validation_samples": 64},
        "finetune": {
            "max_steps": record["steps"], "train_batch_size": 32, "learning_rate": 1e-4, "warmup": 0.06,
            "precision": "fp32", "weight_decay": 0.01, "save_steps": 100_000,
        },
    }  # fmt: skip
    begin = time.monotonic()
    if not (output / "manifest.json").is_file():
        finetune(recipe_from_mapping(data, "post_training.py"), output, data_dir=options.data)
    return {**score(options, task, output), "steps": record["steps"], "seconds": round(time.monotonic() - begin)}


def dense_classifier(options: Options, task: str) -> Path:
    """Return the dense classifier; train it with a small budget if it is missing."""
    from sparse_deploy.config import recipe_from_mapping
    from sparse_deploy.stages.finetune import finetune

    folder = options.classifiers / f"minilm-{task}-dense"
    if not (folder / "manifest.json").is_file():
        data = {
            "name": folder.name,
            "task": task,
            "model": {"name_or_path": ENCODER},
            "data": {"train_samples": TRAINED_ON[task]},
            "finetune": {"epochs": 1, "learning_rate": 1e-4, "train_batch_size": 32, "warmup": 0.06},
        }
        finetune(recipe_from_mapping(data, "post_training.py"), folder, data_dir=options.data)
    return folder


def score(options: Options, task: str, folder: Path) -> dict[str, Any]:
    """Accuracy, and the paired gate's verdict against the dense model on the same rows."""
    import numpy as np

    from sparse_deploy.gate.paired import compare_correct
    from sparse_deploy.gate.wording import verdict_of

    stored = options.work / f"{task}-dense-correct.npy"
    if not stored.is_file():
        np.save(stored, _correct(options, task, dense_classifier(options, task)))
    correct = _correct(options, task, folder)
    evidence = compare_correct(np.load(stored), correct, margin=MARGIN, confidence=0.95)
    return {
        "accuracy": round(100 * float(correct.mean()), 2),
        "rows": len(correct),
        "drop_low": round(100 * evidence.low, 2),
        "drop_high": round(100 * evidence.high, 2),
        "verdict": verdict_of(evidence.p_pass, evidence.p_fail, 0.05),
        "rows_needed": evidence.rows_needed,
    }


def _correct(options: Options, task: str, folder: Path) -> Any:
    """Whether the prediction of each validation row is right, bool ``[rows]``."""
    import numpy as np

    from sparse_deploy.config.schema import DataSection
    from sparse_deploy.data.features import encode_split, load_tokenizer
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.training.trainer import predict

    found = get_task(task)
    rows = load_split(found, "validation", options.data, limit=ROWS[task])
    split = encode_split(found, rows, load_tokenizer(folder), DataSection(max_length=128))
    outputs = predict(load_as_saved(folder), split.features, found, batch_size=32)
    return np.array([int(output[0].argmax()) == row["label"] for output, row in zip(outputs, rows, strict=True)])
