# SPDX-License-Identifier: Apache-2.0
"""A tiny trained sparse model and its text, made in seconds, for tests that need accuracy."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_checkpoint import demo_recipe

GOOD = ("good", "excellent", "wonderful", "impressive", "great", "lovely", "superb", "solid")
BAD = ("bad", "terrible", "poor", "disappointing", "awful", "horrible", "dreadful", "mediocre")
FRAME = ("the", "room", "was", "and", "we", "came", "for", "food", "it", "staff", "seemed", "a", "phone")
TRAINING_ROWS, VALIDATION_ROWS = 3000, 600


def write_text(folder: Path, *, swapped: bool = False) -> Path:
    """Reviews of up to five opinions, labelled by the majority: some are nearly balanced, as in real text.

    Args:
        folder: output folder of ``demo/train.jsonl.gz`` and ``demo/validation.jsonl.gz``.
        swapped: exchange the two labels.
    """
    rng = np.random.default_rng(7)
    (folder / "demo").mkdir(parents=True)
    for split, count in (("train", TRAINING_ROWS), ("validation", VALIDATION_ROWS)):
        with gzip.open(folder / "demo" / f"{split}.jsonl.gz", "wt", encoding="utf-8") as stream:
            for _ in range(count):
                sentence, label = _review(rng)
                stream.write(json.dumps({"sentence": sentence, "label": label ^ swapped}) + "\n")
    return folder


def train_classifier(encoder: Path, data: Path, output: Path, *, steps: int = 120) -> Path:
    """Train a classifier on the text with a plain loop that keeps the zeros; the Trainer's start-up alone takes longer.

    Args:
        encoder: a sparse encoder folder.
        data: the folder that :func:`write_text` wrote.
        output: output folder, a plain Hugging Face checkpoint.
        steps: optimizer steps of 64 reviews.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    with gzip.open(data / "demo" / "train.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]

    def draw(order: np.random.Generator) -> dict[str, Any]:
        chosen = [rows[i] for i in order.integers(len(rows), size=64)]
        batch = tokenizer([row["sentence"] for row in chosen], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in chosen])}

    fit(model, draw, steps)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def fit(model: Any, draw: Callable[[np.random.Generator], dict[str, Any]], steps: int) -> None:
    """Train in place and keep the zeros. ``draw`` returns a batch of tensors, including the labels for the loss."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with two threads these tiny operators mostly wait
    held = [(weight, weight != 0) for name, weight in model.named_parameters() if (weight == 0).float().mean() > 0.5
            and name.endswith("weight")]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        loss = model(**draw(order)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for weight, mask in held:
                weight.mul_(mask)
    torch.set_num_threads(threads)
    model.eval()


def export_learnt(encoder: Path, folder: Path) -> Path:
    """Write text, checkpoint and deployment to ``data``, ``checkpoint`` and ``deployment`` in ``folder``.

    The export stage makes the deployment: static INT8, OpenVINO and the sparse file.
    """
    from sparse_deploy.stages.export import export_deployment

    data = write_text(folder / "data")
    checkpoint = train_classifier(encoder, data, folder / "checkpoint")
    recipe = demo_recipe(encoder, data={"max_length": 32}, export={}, quantization={"calibration_samples": 64})
    export_deployment(str(checkpoint), recipe, folder / "deployment", data_dir=data)
    return folder


def _review(rng: np.random.Generator) -> tuple[str, int]:
    opinions = rng.choice([1, 3, 5])
    says = rng.integers(2, size=opinions)
    words = [str(rng.choice(GOOD if good else BAD)) for good in says]
    frame = [str(word) for word in rng.choice(FRAME, size=opinions + 3)]
    text = frame[:2] + [word for pair in zip(words, frame[2:], strict=False) for word in pair] + frame[-1:]
    return " ".join(text), int(2 * says.sum() > opinions)
