# SPDX-License-Identifier: Apache-2.0
"""Tiny sparse models trained on generated text, for question answering and pairs of sentences."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from learnt_deployment import BAD, FRAME, GOOD, fit

QUESTIONS = {"good": "what was good", "bad": "what was bad"}
DATA = {"max_length": 48, "doc_stride": 8}
TRAINING_PARAGRAPHS, VALIDATION_PARAGRAPHS = 1000, 150
TRAINING_PAIRS, VALIDATION_PAIRS = 2000, 300
STEPS = 140


def write_squad(folder: Path) -> Path:
    """Paragraphs with one good and one bad word, and a question for each of the two words."""
    rng = np.random.default_rng(3)
    for split, count in (("train", TRAINING_PARAGRAPHS), ("validation", VALIDATION_PARAGRAPHS)):
        rows = (row for number in range(count) for row in _asked(rng, number))
        _write(folder / "squad" / f"{split}.jsonl.gz", rows)
    return folder


def write_stsb(folder: Path) -> Path:
    """Pairs of sentences, scored from 0 to 5 by the share of good words in both."""
    rng = np.random.default_rng(3)
    for split, count in (("train", TRAINING_PAIRS), ("validation", VALIDATION_PAIRS)):
        _write(folder / "stsb" / f"{split}.jsonl.gz", (_pair(rng) for _ in range(count)))
    return folder


def train(encoder: Path, task_name: str, data: Path, output: Path) -> Path:
    """Train a head and the encoder on ``squad`` or ``stsb`` in ``data``, keeping the zeros; save a checkpoint."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    from sparse_deploy.config.schema import DataSection
    from sparse_deploy.data.batches import pad_batch
    from sparse_deploy.data.features import encode_split, load_tokenizer
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task

    task = get_task(task_name)
    tokenizer = load_tokenizer(encoder)
    split = encode_split(task, load_split(task, "train", data), tokenizer, DataSection(**DATA), name="train")
    torch.manual_seed(0)
    if split.windows is None:
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
        targets = {"labels": torch.tensor([example["label"] for example in split.examples], dtype=torch.float32)}
    else:
        model = AutoModelForQuestionAnswering.from_pretrained(encoder)
        answers = [split.examples[number]["answers"] for number in split.example_of]
        spans = [(answer["answer_start"][0], len(answer["text"][0])) for answer in answers]
        tokens = [window.tokens_of(at, at + size) for window, (at, size) in zip(split.windows, spans, strict=True)]
        targets = dict(zip(("start_positions", "end_positions"), torch.tensor(tokens).T, strict=True))

    def draw(order: np.random.Generator) -> dict[str, Any]:
        chosen = order.integers(len(split.features), size=64)
        batch = pad_batch([split.features[number] for number in chosen], tokenizer.pad_token_id)
        inputs = {name: torch.from_numpy(values) for name, values in batch.items()}
        return inputs | {name: values[chosen] for name, values in targets.items()}

    fit(model, draw, STEPS)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")


def _asked(rng: np.random.Generator, number: int) -> Iterator[dict[str, Any]]:
    words = {"good": str(rng.choice(GOOD)), "bad": str(rng.choice(BAD))}
    frame = [str(word) for word in rng.choice(FRAME, size=rng.integers(4, 10))]
    for place, word in zip(rng.permutation(len(frame))[:2], words.values(), strict=True):
        frame[place] = word
    context = " ".join(frame)
    for kind, question in QUESTIONS.items():
        answers = {"text": [words[kind]], "answer_start": [context.index(words[kind])]}
        yield {"id": f"{number}-{kind}", "context": context, "question": question, "answers": answers}


def _pair(rng: np.random.Generator) -> dict[str, Any]:
    good = rng.integers(2, size=4)
    said = [f"{rng.choice(FRAME)} {rng.choice(GOOD if one else BAD)}" for one in good]
    return {"sentence1": " ".join(said[:2]), "sentence2": " ".join(said[2:]), "label": float(5 * good.mean())}
