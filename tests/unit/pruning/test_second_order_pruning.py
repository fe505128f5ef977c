# SPDX-License-Identifier: Apache-2.0
"""Layer by layer through real encoders: the walk runs the layers of the model, and pruning changes little."""

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.errors import ConfigError, DataError
from sparse_deploy.pruning.encoder_walk import EncoderWalk, encoder_layers
from sparse_deploy.pruning.magnitude import MagnitudePruning
from sparse_deploy.pruning.method import PruningPlan, prunable_parameters
from sparse_deploy.pruning.second_order import SecondOrderPruning
from sparse_deploy.sparsity.pattern import SparsityPattern, holds_pattern

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES, intermediate_size=64, initializer_range=0.2)).eval()


def distilbert() -> DistilBertModel:
    torch.manual_seed(0)
    return DistilBertModel(
        DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=2, hidden_dim=64, initializer_range=0.2)
    ).eval()


def batches(rows: int = 24) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for tokens in (5, 9, 14):
        ids = torch.randint(5, 60, (rows // 3, tokens), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, tokens // 2 :] = 0
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


@pytest.mark.parametrize("make", [bert, distilbert])
def test_the_walk_reaches_the_hidden_states_of_the_model(make):
    model = make()
    text = batches()
    walk = EncoderWalk(model, text)
    assert walk.tokens == sum(int(batch["attention_mask"].sum()) for batch in text)
    states = [model(**batch, output_hidden_states=True).hidden_states for batch in text]
    for depth in range(len(walk.layers)):
        for number, batch in enumerate(text):
            mask = batch["attention_mask"].bool()
            torch.testing.assert_close(walk.hidden(number), states[number][depth][mask], rtol=1e-5, atol=1e-5)
        walk.advance(depth)


def test_query_key_and_value_are_one_group_and_see_no_padding():
    model = bert()
    walk = EncoderWalk(model, batches())
    names = {m: f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    groups = walk.groups(0, names)
    assert [len(group.linears) for group in groups] == [3, 1, 1, 1]
    assert [group.features for group in groups] == [32, 32, 32, 64]
    inputs = list(walk.inputs(0, next(iter(groups[3].linears.values()))))
    assert sum(map(len, inputs)) == walk.tokens


@pytest.mark.parametrize(("pattern", "share"), [("1:2", 0.5), ("unstructured", 0.6), ("4x1", 0.5), ("1x4", 0.5)])
def test_second_order_keeps_the_answers_better_than_magnitude(pattern, share):
    wanted, text = SparsityPattern.parse(pattern), batches(90)
    dense = bert()
    changes = {}
    for method in (SecondOrderPruning(), MagnitudePruning()):
        model = bert()
        names = tuple(prunable_parameters(model, DEFAULT_EXCLUDE))
        found = method.prune(model, PruningPlan.uniform(names, wanted, share), text)
        assert tuple(found.masks) == names
        weights = dict(model.named_parameters())
        for name, mask in found.masks.items():
            assert holds_pattern(mask, wanted)
            assert np.array_equal((weights[name] == 0).numpy(), mask)
        changes[method.name] = sum(
            float((model(**b).last_hidden_state - dense(**b).last_hidden_state).detach().square().mean()) for b in text
        )
    assert changes["second-order"] < 0.6 * changes["magnitude"]


def test_a_text_that_can_not_determine_the_widest_matrix_is_refused():
    model = bert()
    plan = PruningPlan.uniform(tuple(prunable_parameters(model, DEFAULT_EXCLUDE)), SparsityPattern.parse("1:2"), 0.5)
    with pytest.raises(DataError, match=r"expected at least 64 tokens.*found 13 in 3 texts"):
        SecondOrderPruning().prune(model, plan, batches(3))


def test_a_shape_that_does_not_tile_is_refused_before_any_work():
    model = bert()
    plan = PruningPlan.uniform(tuple(prunable_parameters(model, DEFAULT_EXCLUDE)), SparsityPattern.parse("1:3"), 2 / 3)
    with pytest.raises(ConfigError, match=r"query.weight: shape 32x32 can't be tiled with 1:3"):
        SecondOrderPruning().prune(model, plan, batches())
    assert all(bool((p != 0).all()) for p in prunable_parameters(model, DEFAULT_EXCLUDE).values())


def test_architectures_without_layers_of_their_own_are_refused():
    with pytest.raises(ConfigError, match="expected an encoder with its layers in one list"):
        encoder_layers(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()))
    shared = AlbertModel(
        AlbertConfig(**SIZES, embedding_size=16, intermediate_size=64)  # one layer, run twice
    ).eval()
    with pytest.raises(ConfigError, match="each run once and in order"):
        EncoderWalk(shared, batches())
