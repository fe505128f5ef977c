# SPDX-License-Identifier: Apache-2.0
"""The copy of the source checkpoint in a deployment."""

import shutil
from pathlib import Path

from sparse_deploy.checkpoint import WEIGHTS_FILE, weight_files
from sparse_deploy.data.tasks import Task
from sparse_deploy.data.tasks.pooling import SENTENCE_FILES


def copy_model(source: Path, staging: Path, task: Task, *, allow_pickle: bool) -> None:
    """Write weights and config into the deployment: one safetensors file, for every source format."""
    copy_sentence_files(source, staging, task)
    if [path.name for path in weight_files(source, allow_pickle=allow_pickle)] == [WEIGHTS_FILE]:
        shutil.copyfile(source / WEIGHTS_FILE, staging / WEIGHTS_FILE)
        shutil.copyfile(source / "config.json", staging / "config.json")
        return
    from sparse_deploy.modeling import load_finetuned

    load_finetuned(source, task.kind, allow_pickle=allow_pickle).save_pretrained(staging, max_shard_size="100GB")


def copy_sentence_files(source: Path, staging: Path, task: Task) -> None:
    """Copy the files of the sentence-transformers format, if the task is that of a sentence encoder."""
    if task.pooling is None:
        return
    for name in (*SENTENCE_FILES, str(Path(task.pooling.folder, "config.json")) if task.pooling.folder else ""):
        if name and (source / name).is_file():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staging / name)
