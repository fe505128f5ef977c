# SPDX-License-Identifier: Apache-2.0
"""Open a checkpoint as a PyTorch model of a task."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedModel
from transformers import __version__ as transformers_version

from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import CheckpointError, ConfigError

HEADS = ("classifier", "qa_outputs", "pooler")


def load_for_task(
    folder: Path,
    task: Task,
    *,
    dropout: float | None = None,
    allow_pickle: bool = False,
    new_head: bool = True,
) -> PreTrainedModel:
    """Load a checkpoint with the model class that Optimum's registry names for the task.

    Args:
        folder: a checked checkpoint folder.
        task: decides the class, the number of labels and their names.
        dropout: overrides hidden and attention dropout.
        allow_pickle: load ``pytorch_model.bin`` (with ``weights_only=True``) where there is no safetensors file.
        new_head: accept a checkpoint without a head of this task; the head then starts at random.

    Raises:
        CheckpointError: encoder weights missing, or of another shape.
        ConfigError: a head is needed and missing.
    """
    from optimum.exporters.tasks import TasksManager

    library_task = "text-classification" if task.kind is TaskKind.REGRESSION else str(task.kind)
    model_class = TasksManager.get_model_class_for_task(library_task, framework="pt", library="transformers")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _set_head(config, task)
        if dropout is not None:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        model, info = model_class.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=not allow_pickle or None,
            ignore_mismatched_sizes=new_head,
            output_loading_info=True,
            dtype="float32",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: transformers {transformers_version} can't load it: {reason}") from error
    absent = [name for name in info["missing_keys"] if not any(head in name for head in HEADS)]
    if absent:
        raise CheckpointError(f"{folder}: expected the weights of a {model_class.__name__}, {absent[0]} is missing")
    headless = [name for name in info["missing_keys"] if "pooler" not in name] + list(info["mismatched_keys"])
    if headless and not new_head:
        raise ConfigError(
            f"{folder}: expected a model fine-tuned on {task.name}, found one without a fitting head ({headless[0]}); "
            f"fine-tune it on {task.name} first"
        )
    return model


def _set_head(config: object, task: Task) -> None:
    if task.kind is TaskKind.QUESTION_ANSWERING:
        return
    labels = task.labels or (task.name,)
    config.num_labels = len(labels)  # type: ignore[attr-defined]
    config.id2label = dict(enumerate(labels))  # type: ignore[attr-defined]
    config.label2id = {label: i for i, label in enumerate(labels)}  # type: ignore[attr-defined]
    config.problem_type = (  # type: ignore[attr-defined]
        "regression" if task.kind is TaskKind.REGRESSION else "single_label_classification"
    )
    config.finetuning_task = task.name  # type: ignore[attr-defined]
