# SPDX-License-Identifier: Apache-2.0
"""The facts on each family agree with transformers' classes."""

import inspect

import pytest
import torch
from tiny_architectures import FAMILIES, POSITIONS, tiny_model

from sparse_deploy.architectures import (
    ARCHITECTURES,
    MODEL_INPUTS,
    architecture_of,
    check_length,
    dense_parts,
    without_head,
)
from sparse_deploy.errors import ConfigError
from sparse_deploy.sparsity.statistics import prunable_names


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def answer(model, tokens):
    ids = torch.arange(4, 4 + tokens).remainder(700).clamp(min=4)[None]
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_the_usable_length_is_the_longest_that_transformers_takes(model):
    config = model.config.to_dict()
    assert architecture_of(config).usable_length(config) == POSITIONS
    assert torch.isfinite(answer(model, POSITIONS)).all()
    if config["model_type"] not in (
        "deberta-v2",
        "modernbert",
    ):  # positions without a table: what they were trained for
        with pytest.raises((IndexError, RuntimeError)):
            answer(model, POSITIONS + 1)


def test_inputs_are_those_of_the_class(model):
    inputs = architecture_of(model.config.to_dict()).inputs(model.config.to_dict())
    assert inputs == MODEL_INPUTS[: len(inputs)]
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    assert len(inputs) == 3 if takes_types and getattr(model.config, "type_vocab_size", 0) > 1 else 2


def test_dropout_keys_and_the_number_of_layers_are_in_the_config(model):
    architecture = architecture_of(model.config.to_dict())
    assert architecture.dropout
    assert all(hasattr(model.config, key) for key in (*architecture.dropout, architecture.layers))


def test_only_linear_layers_of_the_encoder_are_pruned(model):
    names = prunable_names([name for name, value in model.named_parameters() if value.ndim == 2], dense_parts())
    architecture = architecture_of(model.config.to_dict())
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {name for name in linears if not architecture.in_head(name) and "embedding" not in name}
    assert set(names) == inside
    assert len(names) == {"albert": 6, "modernbert": 12}.get(model.config.model_type, 12)


def test_all_linear_layers_but_the_head_are_quantized_with_and_without_a_head(model):
    inside = {id(module) for module in model.base_model.modules()} - {
        id(module) for name, module in model.base_model.named_modules() if "pooler" in name
    }
    for runs in (model, model.base_model):  # the second is a sentence encoder
        seen = []
        hooks = [
            module.register_forward_pre_hook(lambda module, _, seen=seen: seen.append(module))
            for module in runs.modules()
            if isinstance(module, torch.nn.Linear)
        ]
        runs(input_ids=torch.full((1, 4), 5), attention_mask=torch.ones((1, 4), dtype=torch.int64))
        for hook in hooks:
            hook.remove()
        kept = without_head(seen, [(module.out_features, module.in_features) for module in seen])
        assert [module for module in seen if id(module) in inside] == [
            module for module in kept if id(module) in inside
        ]
        assert kept != seen or runs is model.base_model


def test_every_family_is_found_by_its_types():
    for architecture in ARCHITECTURES:
        assert all(architecture_of({"model_type": one}) is architecture for one in architecture.model_types)


def test_an_unknown_family_says_why_it_is_dense():
    other = architecture_of({"model_type": "nystromformer", "max_position_embeddings": 512})
    assert other.usable_length({"max_position_embeddings": 512}) == 512
    assert other.usable_length({}) is None
    assert "nystromformer" in other.unlisted
    assert not other.dropout


@pytest.mark.parametrize(("positions", "padding", "usable"), [(514, 1, 512), (130, 1, 128), (512, 0, 511)])
def test_roberta_loses_the_positions_up_to_the_padding_id(positions, padding, usable):
    config = {"model_type": "roberta", "max_position_embeddings": positions, "pad_token_id": padding}
    check_length(config, usable, "./m")
    with pytest.raises(ConfigError, match=rf"^\./m: the model reads at most {usable} tokens, .*{usable + 1}"):
        check_length(config, usable + 1, "./m")
