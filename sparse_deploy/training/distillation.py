# SPDX-License-Identifier: Apache-2.0
"""The Trainer of all fine-tuning runs: loss of the labels, and of a teacher if the recipe has one."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, Trainer

from sparse_deploy.architectures.architecture import MODEL_INPUTS
from sparse_deploy.config.schema import DistillationSection
from sparse_deploy.errors import ConfigError
from sparse_deploy.training.losses import Loss
from sparse_deploy.training.sampling import EpochSampler

LOGIT_OUTPUTS = ("logits", "start_logits", "end_logits")


class SparseTrainer(Trainer):  # type: ignore[misc]
    """Trainer with knowledge distillation and a loss that is a mean per micro-batch.

    Args:
        teacher: frozen model of the same task; None means training with labels only.
        distillation: temperature and weights; required with a teacher.
        loss: loss of the labels, instead of the model's.
        **trainer_arguments: arguments of :class:`transformers.Trainer`.
    """

    # BERT's forward() takes **kwargs, from which Trainer 5.x concludes that its loss is divided by the number of items
    # of the accumulated batch. It is a mean per micro-batch, so without this flag gradients would grow with
    # gradient_accumulation_steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *,
        teacher: PreTrainedModel | None = None,
        distillation: DistillationSection | None = None,
        loss: Loss | None = None,
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(**trainer_arguments)
        self._distillation = distillation
        self._loss = loss
        self._teacher = teacher.to(self.args.device).eval().requires_grad_(False) if teacher is not None else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Mean loss of a micro-batch: labels, or labels and teacher in the recipe's proportion."""
        settings, teacher = self._distillation, self._teacher
        if settings is None or teacher is None or not model.training:
            outputs = self._forward(model, inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        hidden = settings.hidden_weight > 0
        outputs = self._forward(model, inputs, output_hidden_states=hidden)
        questions = {name: value for name, value in inputs.items() if name in MODEL_INPUTS}
        with torch.no_grad():
            taught = teacher(**questions, output_hidden_states=hidden)
        loss = (1 - settings.alpha) * outputs["loss"] + settings.alpha * logit_loss(outputs, taught, settings)
        if hidden:
            mask = inputs["attention_mask"]
            loss = loss + settings.hidden_weight * hidden_state_loss(
                outputs["hidden_states"], taught["hidden_states"], mask
            )
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: dict[str, torch.Tensor], **options: bool) -> Any:
        """The model's outputs with the loss of the labels."""
        if self._loss is None:
            return model(**inputs, **options)
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"}, **options)
        outputs["loss"] = self._loss(outputs["logits"], inputs["labels"])
        return outputs

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        """The order of the examples; see :class:`EpochSampler`."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        grouped = self.args.train_sampling_strategy == "group_by_length"
        lengths: list[int] | int = len(rows)
        if grouped:
            lengths = list(rows["length"]) if "length" in rows.column_names else [len(ids) for ids in rows["input_ids"]]
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochSampler(lengths, seed=self.args.seed, batch=batch)


def logit_loss(student: Any, teacher: Any, settings: DistillationSection) -> torch.Tensor:
    """Soft-label loss: T^2 * KL(teacher || student) at temperature T, mean over examples (arXiv 1503.02531, sec. 2).

    For regression (one logit) it is the squared difference. Question answering averages start and end.

    Args:
        student: model output with ``logits`` or ``start_logits``/``end_logits``.
        teacher: output of the teacher, in the same form.
        settings: settings with the temperature.
    """
    temperature = settings.temperature
    losses = []
    for name in (n for n in LOGIT_OUTPUTS if n in student):
        ours, theirs = student[name].float(), teacher[name].float()
        if ours.shape[-1] == 1:
            losses.append(functional.mse_loss(ours, theirs))
            continue
        divergence = functional.kl_div(
            functional.log_softmax(ours / temperature, dim=-1),
            functional.log_softmax(theirs / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        losses.append(temperature**2 * divergence)
    return torch.stack(losses).mean()


def hidden_state_loss(
    student: tuple[torch.Tensor, ...], teacher: tuple[torch.Tensor, ...], attention_mask: torch.Tensor
) -> torch.Tensor:
    """Mean squared error between hidden states of matching depth, without padding.

    Layers are matched by even spacing: student layer i of S with teacher layer ``round(i * T / S)``.

    Args:
        student: embeddings and S layer outputs, ``[batch, sequence, hidden]``.
        teacher: embeddings and T layer outputs of the same width.
        attention_mask: ``[batch, sequence]``.
    """
    depth, teacher_depth = len(student) - 1, len(teacher) - 1
    mask = attention_mask.unsqueeze(-1).to(student[0].dtype)
    count = mask.sum() * student[0].shape[-1]
    losses = [
        (((student[i] - teacher[round(i * teacher_depth / depth)]) ** 2) * mask).sum() / count for i in range(depth + 1)
    ]
    return torch.stack(losses).mean()


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel, settings: DistillationSection) -> None:
    """Refuse a teacher that does not fit the student.

    Raises:
        ConfigError: different number of labels, label names, vocabulary, or width of hidden states.
    """
    ours, theirs = student.config, teacher.config
    if ours.num_labels != theirs.num_labels:
        raise ConfigError(
            f"distillation.teacher: expected {ours.num_labels} labels, {settings.teacher} has {theirs.num_labels}; use "
            f"a teacher fine-tuned on this task"
        )
    names, teacher_names = _label_names(ours), _label_names(theirs)
    if names and teacher_names and names != teacher_names:
        raise ConfigError(
            f"distillation.teacher: expected labels {names}, {settings.teacher} has {teacher_names}; the order of the "
            f"labels must be equal"
        )
    if ours.vocab_size != theirs.vocab_size:
        raise ConfigError(
            f"distillation.teacher: expected a vocabulary of {ours.vocab_size}, {settings.teacher} has "
            f"{theirs.vocab_size}; teacher and student must share the tokenizer"
        )
    if settings.hidden_weight and ours.hidden_size != theirs.hidden_size:
        raise ConfigError(
            f"distillation.hidden_weight: expected a teacher of hidden size {ours.hidden_size}, {settings.teacher} has "
            f"{theirs.hidden_size}; set hidden_weight: 0"
        )


def _label_names(config: Any) -> list[str]:
    """Label names in id order; empty if the config has only placeholders (LABEL_0, ...)."""
    names = [str(config.id2label[i]).lower() for i in sorted(config.id2label)]
    return [] if all(name.startswith("label_") for name in names) else names
