# SPDX-License-Identifier: Apache-2.0
"""Pruning without training on real weights: cost in accuracy, minutes and memory, compared with other tools.

python studies/post_training.py --data-dir ../shared/data --minutes 15      # hours on two cores; resumes
python studies/post_training.py --data-dir ../shared/data --cells 'stsb-*'  # part of it
python studies/post_training.py --write                                     # only the tables, into docs/pruning.md

Sentence encoder: all-MiniLM-L6-v2, mean pooling, Spearman of the cosine with the scores of STS-B's validation rows.
With ``--peer`` (the environment of llm-compressor, see post_training_peer.py) its pruning is measured, too.
Classifiers: MiniLM fine-tuned on SST-2 and QNLI (``--classifiers FOLDER`` holds ``minilm-TASK-dense``, which is trained
if it is missing), accuracy on validation rows, with the paired gate's verdict on a drop of one point. The text is
training text without its labels. Each cell runs in a separate process, so that its peak memory is measured separately.
A cell with a record in ``studies/post_training_records`` is not measured again.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness_on_path  # noqa: F401 - the next imports need it
from harness.generated import with_tables
from post_training_classifiers import classifier_cell, gradual_cell
from post_training_common import RECORDS, ROOT, TASKS, Options, Pattern, key_of
from post_training_sentences import (
    PEER_SAMPLES,
    bert_base_cell,
    int8_cell,
    peer_cell,
    rounding_cell,
    sentence_cell,
    speed_cell,
)
from post_training_tables import tables

PAGE = ROOT / "docs" / "pruning.md"
# Pattern and target of the sentence encoder's cells; of these, recovery is measured for the first four.
PATTERNS: tuple[Pattern, ...] = (
    ("1:2", None), ("unstructured", 0.6), ("unstructured", 0.7), ("4x1", 0.5), ("4x1", 0.8), ("1x4", 0.5),
)  # fmt: skip
RECOVERED = PATTERNS[:4]
CLASSIFIER_PATTERNS = PATTERNS[:2]
METHODS = ("magnitude", "second-order")
PEER_METHODS = ("sparsegpt", "wanda")


def cells() -> dict[str, Callable[[Options], dict[str, Any]]]:
    """All cells by name."""
    found: dict[str, Callable[[Options], dict[str, Any]]] = {"stsb-dense": partial(sentence_cell, pattern=None)}
    for pattern in PATTERNS:
        for method in METHODS:
            found[f"stsb-{key_of(pattern)}-{method}"] = partial(sentence_cell, pattern=pattern, method=method)
    for pattern in RECOVERED:
        found[f"stsb-{key_of(pattern)}-recovered"] = partial(sentence_cell, pattern=pattern, recover=True)
    for pattern in PATTERNS[:3]:
        found[f"stsb-{key_of(pattern)}-int8"] = partial(int8_cell, pattern=pattern)
    found["stsb-1_2-few"] = partial(sentence_cell, pattern=PATTERNS[0], samples=PEER_SAMPLES)
    for method in PEER_METHODS:
        found[f"stsb-1_2-{method}"] = partial(peer_cell, pattern=PATTERNS[0], method=method)
    found["stsb-u70-chosen"] = partial(speed_cell, pattern=PATTERNS[2])
    found["stsb-1_2-rounding"] = partial(rounding_cell, pattern=PATTERNS[0])
    for task in TASKS:
        found[f"{task}-dense"] = partial(classifier_cell, task=task, pattern=None)
        for pattern in CLASSIFIER_PATTERNS:
            name = f"{task}-{key_of(pattern)}"
            cell = partial(classifier_cell, task=task, pattern=pattern)
            for method in METHODS:
                found[f"{name}-{method}"] = partial(cell, method=method)
            found[f"{name}-recovered"] = partial(cell, recover=True)
            found[f"{name}-gradual"] = partial(gradual_cell, task=task, pattern=pattern)
    found["bert-base-1_2-time"] = bert_base_cell
    return found


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "post_training", help="folder of the pruned models"
    )
    parser.add_argument("--classifiers", type=Path, help="folder of the dense classifiers; default: --work")
    parser.add_argument("--peer", type=Path, help="environment that has llm-compressor")
    parser.add_argument("--minutes", type=float, default=15.0, help="minutes of each recovery")
    parser.add_argument(
        "--cells", nargs="*", default=["*"], help="measure only cells of these names; * and ? as in a shell"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the tables, without measuring")
    arguments = parser.parse_args()
    options = Options(
        arguments.data_dir, arguments.work, arguments.classifiers or arguments.work, arguments.minutes, arguments.peer
    )
    options.work.mkdir(parents=True, exist_ok=True)
    RECORDS.mkdir(exist_ok=True)
    if arguments.cell:
        measure(arguments.cell, options)
        return
    for name in [] if arguments.write else cells():
        if (RECORDS / f"{name}.json").is_file() or not any(fnmatch.fnmatch(name, one) for one in arguments.cells):
            continue
        print(f"{time.strftime('%T')} {name}", file=sys.stderr, flush=True)
        subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--cell", name], check=False, stdout=subprocess.DEVNULL
        )
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))}
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(records), Path(__file__).name))


def measure(name: str, options: Options) -> None:
    """Measure a cell and write its record."""
    import torch

    from sparse_deploy.machine import describe_machine

    record = cells()[name](options)
    machine = describe_machine()
    record |= {"cpu": machine.cpu_model, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[1], 1)}
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
