# SPDX-License-Identifier: Apache-2.0
"""Names of cells, and the ways to select cells on a command line."""

from itertools import pairwise

import pytest
from harness.bars import CELLS, kernel_bar
from harness.cells import MODELS, Cell, parse_cell, parse_pattern, select_cells
from transformers import AutoConfig

from sparse_deploy.sparsity.pattern import SparsityPattern


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_of_the_table_reads_back_as_its_own_name(name):
    assert parse_cell(name).name == name


@pytest.mark.parametrize("model", MODELS)
def test_the_config_of_a_model_is_one_of_transformers(model):
    config = MODELS[model].config
    made = AutoConfig.for_model(**{"model_type": MODELS[model].model_type, **config}).to_dict()
    assert {name: made[name] for name in config} == config


def test_a_cell_outside_the_table_can_be_measured():
    assert parse_cell("large-b90_1x4-b3-s17") == Cell("large", "b90_1x4", 3, 17)


@pytest.mark.parametrize(
    ("instruction_set", "pattern", "k", "tokens", "bar"),
    [
        ("avx512_vbmi", "u70", 768, 128, 1.9),
        ("avx512_vbmi", "u70", 768, 16, None),
        ("avx512_bf16", "u70", 768, 128, 1.9),
        ("avx2", "u70", 768, 16, 1.9),
        ("avx2", "u90", 4096, 384, 2.8),
        ("avx2", "u70", 384, 128, None),
        ("avx2", "dense", 768, 128, None),
        ("portable", "u70", 768, 128, None),
    ],
)
def test_a_kernel_is_judged_where_its_set_has_a_bar(instruction_set, pattern, k, tokens, bar):
    assert kernel_bar(instruction_set, pattern, k, tokens) == bar


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("base-u70-b1", "BATCH"),
        ("huge-u70-b1-s128", "huge"),
        ("base-x70-b1-s128", "x70"),
        ("base-u70-b0-s128", "BATCH"),
        ("base-u70-b1-s513", "513"),
    ],
)
def test_a_wrong_cell_is_refused_with_what_was_found(text, word):
    with pytest.raises(ValueError, match=word):
        parse_cell(text)


@pytest.mark.parametrize(
    ("text", "pattern", "share"),
    [
        ("u70", "unstructured", 0.7),
        ("u95", "unstructured", 0.95),
        ("12", "1:2", 0.5),
        ("24", "2:4", 0.5),
        ("14", "1:4", 0.75),
        ("b80_4x1", "4x1", 0.8),
        ("b80_1x4", "1x4", 0.8),
        ("dense", "dense", 0.0),
    ],
)
def test_patterns_have_short_names(text, pattern, share):
    assert parse_pattern(text) == (SparsityPattern.parse(pattern), pytest.approx(share))


@pytest.mark.parametrize("text", ["21", "22", "u7", "b80", "b80_4x", "4x1", ""])
def test_a_wrong_pattern_is_refused(text):
    with pytest.raises(ValueError, match="pattern"):
        parse_pattern(text)


def test_all_means_the_whole_table_with_cells_of_one_model_side_by_side():
    cells = select_cells(["all"])
    assert {cell.name for cell in cells} == set(CELLS)
    models = [(cell.model, cell.pattern) for cell in cells]
    assert [model for i, model in enumerate(models) if model not in models[:i]] == list(dict.fromkeys(models))
    assert sum(one != two for one, two in pairwise(models)) == len(set(models)) - 1


def test_globs_and_names_mix_and_each_cell_comes_once():
    cells = select_cells(["large-*", "base-u70-b1-s16,base-u70-b1-s16", "base-u70-b2-s40"])
    assert [cell.name for cell in cells] == [
        "large-b80_4x1-b1-s384",
        "large-b80_1x4-b1-s384",
        "base-u70-b1-s16",
        "base-u70-b2-s40",
    ]


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="huge"):
        select_cells(["huge-*"])
