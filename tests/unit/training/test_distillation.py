# SPDX-License-Identifier: Apache-2.0
"""The distillation loss against its formula, and teachers that are refused."""

import math
import types

import pytest
import torch
from tiny_checkpoint import demo_recipe
from transformers import BertConfig, BertForSequenceClassification

from sparse_deploy.config.schema import DistillationSection
from sparse_deploy.errors import ConfigError
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.training.distillation import SparseTrainer, check_teacher, hidden_state_loss, logit_loss
from sparse_deploy.training.trainer import training_arguments


def section(**changes):
    return DistillationSection(teacher="t", **changes)


def test_soft_label_loss_is_hintons_formula():
    ours, theirs, temperature = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, -1.0]]), 2.0
    p = (theirs / temperature).softmax(-1)[0].tolist()
    q = (ours / temperature).softmax(-1)[0].tolist()
    expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = logit_loss({"logits": ours}, {"logits": theirs}, section(temperature=temperature))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_regression_uses_squared_difference_and_qa_averages_both_ends():
    one = logit_loss({"logits": torch.tensor([[1.0]])}, {"logits": torch.tensor([[3.0]])}, section())
    assert float(one) == pytest.approx(4.0)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    both = logit_loss({"start_logits": a, "end_logits": b}, {"start_logits": b, "end_logits": b}, section())
    start = logit_loss({"logits": a}, {"logits": b}, section())
    assert float(both) == pytest.approx(float(start) / 2)


def test_hidden_state_loss_ignores_padding():
    student = (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    teacher = tuple(torch.full((1, 3, 4), 2.0) for _ in range(3))
    teacher[0][:, 2] = 99.0
    teacher[2][:, 2] = 99.0
    assert float(hidden_state_loss(student, teacher, torch.tensor([[1, 1, 0]]))) == pytest.approx(4.0)


def test_accumulated_gradient_equals_the_whole_batch(tmp_path, tiny_encoder):
    """BERT's mean loss must be divided by the accumulation steps; Trainer 5.x alone would not."""
    model = BertForSequenceClassification.from_pretrained(tiny_encoder).eval()
    recipe = demo_recipe(tiny_encoder)
    batch = {"input_ids": torch.randint(5, 90, (8, 10)), "labels": torch.arange(8) % 2}

    def gradient(steps: int) -> torch.Tensor:
        model.zero_grad()
        settings = recipe.finetune.model_copy(update={"gradient_accumulation_steps": steps})
        trainer = SparseTrainer(model=model, args=training_arguments(settings, tmp_path))
        trainer.model.train = lambda mode=True: trainer.model  # keep dropout off
        trainer.current_gradient_accumulation_steps = steps
        for part in range(steps):
            rows = slice(part * 8 // steps, (part + 1) * 8 // steps)
            trainer.training_step(model, {k: v[rows] for k, v in batch.items()}, num_items_in_batch=torch.tensor(8))
        return model.bert.encoder.layer[0].output.dense.weight.grad.clone()

    torch.testing.assert_close(gradient(4), gradient(1), rtol=1e-4, atol=1e-7)


def small_model(**changes) -> BertForSequenceClassification:
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, **(config | changes)))


@pytest.mark.parametrize(
    ("teacher", "hidden_weight", "message"),
    [
        ({"num_labels": 3}, 0.0, "expected 2 labels"),
        ({"id2label": {0: "positive", 1: "negative"}}, 0.0, "order of the labels"),
        ({"vocab_size": 60}, 0.0, "vocabulary of 50"),
        ({"hidden_size": 64}, 1.0, "hidden size 32"),
    ],
)
def test_teachers_that_can_not_teach(teacher, hidden_weight, message):
    student = small_model(id2label={0: "negative", 1: "positive"})
    changes = {k: v for k, v in teacher.items() if k != "vocab_size"}
    other = small_model(**changes)
    if "vocab_size" in teacher:
        other = types.SimpleNamespace(config=BertConfig(vocab_size=60, hidden_size=32, num_labels=2))
    with pytest.raises(ConfigError, match=message):
        check_teacher(student, other, section(hidden_weight=hidden_weight))


def test_a_student_learns_from_its_teacher_alone(tiny_encoder, trained_checkpoint, tmp_path):
    distillation = {"teacher": str(trained_checkpoint), "alpha": 1.0, "hidden_weight": 0.5}
    recipe = demo_recipe(tiny_encoder, sparsity={"mode": "none"}, distillation=distillation)
    recipe = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"max_steps": 40})})
    history = finetune(recipe, tmp_path / "out").details["history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


def test_an_encoder_without_a_head_is_no_teacher(tiny_encoder, sparse_encoder, tmp_path):
    with pytest.raises(ConfigError, match="expected a model fine-tuned on demo"):
        finetune(demo_recipe(sparse_encoder, distillation={"teacher": str(tiny_encoder)}), tmp_path / "out")
