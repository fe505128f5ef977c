# SPDX-License-Identifier: Apache-2.0
"""Interrupted runs: detection of complete checkpoints, and saving of a checkpoint on Ctrl-C.

The Trainer writes ``checkpoint-N`` in place and would resume from the highest N, even if it is incomplete. This module
uses a checkpoint only if it has a completeness file, which is written last and lists the size of every file.
"""

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparse_deploy.artifacts import write_json_atomically
from sparse_deploy.errors import ConfigError

COMPLETE_FILE = "complete.json"
RUN_FILE = "run.json"
# Folders of the quantization-aware phase: its checkpoints, and its initial weights.
QAT_FOLDER = "qat"
QAT_START = "qat-start"


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest complete ``checkpoint-N`` of a training folder."""
    return next((path for path in _checkpoints(folder) if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file in the completeness file exists with its size."""
    try:
        sizes = json.loads((checkpoint / COMPLETE_FILE).read_text(encoding="utf-8"))["bytes"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def open_run(folder: Path, fingerprint: dict[str, Any], *, restart: bool) -> Path | None:
    """Prepare the training folder of a run.

    Args:
        folder: folder of the Trainer's checkpoints.
        fingerprint: inputs that must be equal to resume (recipe, source, data).
        restart: discard earlier checkpoints.

    Returns:
        The checkpoint to resume from (of the later phase, if it has one; ``qat-start``, if that phase has not saved
        yet), or None for a new run.

    Raises:
        ConfigError: the folder has checkpoints of another run.
    """
    if restart and folder.is_dir():
        for path in folder.iterdir():  # keep the folder, because its lock excludes other runs
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
    run_file = folder / RUN_FILE
    checkpoint = _where_to_resume(folder)
    if checkpoint is not None:
        try:
            earlier = json.loads(run_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if earlier != fingerprint:
            raise ConfigError(
                f"{folder}: found checkpoints of a run with another recipe, model or data; pass --restart to discard "
                f"them, or choose another --output"
            )
    for path in [*_checkpoints(folder), *_checkpoints(folder / QAT_FOLDER)]:
        if not is_complete(path):
            shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(run_file, fingerprint)
    return checkpoint


def state_if_finished(checkpoint: Path) -> dict[str, Any] | None:
    """The Trainer's state in a checkpoint after the last step, else None.

    The Trainer would do one more step when it resumes from there with ``max_steps``.
    """
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state if state["global_step"] >= state["max_steps"] else None


def mark_complete(checkpoint: Path, **facts: Any) -> None:
    """Write the completeness file of a folder, after all other files."""
    sizes = {p.name: p.stat().st_size for p in checkpoint.iterdir() if p.is_file()}
    write_json_atomically(checkpoint / COMPLETE_FILE, {**facts, "bytes": sizes})


def drop_checkpoints(folder: Path) -> None:
    """Remove every ``checkpoint-N`` of a training folder."""
    for path in _checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)


class CompletenessCallback(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as complete. Must be after every callback that adds files in ``on_save``."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for all ranks (each writes its own random state), then list the files and their sizes."""
        if distributed.is_initialized():
            distributed.barrier()
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", step=state.global_step)


class InterruptCallback(TrainerCallback):  # type: ignore[misc]
    """On the first SIGINT or SIGTERM finishes the step, saves a checkpoint and stops. A second signal kills."""

    def __init__(self) -> None:
        self.interrupted = False

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle signals inside the block; earlier handlers are restored after it."""
        earlier = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, on all ranks at the same step."""
        if distributed.is_initialized():
            flag = torch.tensor(int(self.interrupted), device=args.device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            self.interrupted = bool(flag.item())
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True


def _where_to_resume(folder: Path) -> Path | None:
    start = folder / QAT_START
    if is_complete(start):
        return newest_complete_checkpoint(folder / QAT_FOLDER) or start
    return newest_complete_checkpoint(folder)


def _checkpoints(folder: Path) -> list[Path]:
    """All ``checkpoint-N`` folders, newest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
