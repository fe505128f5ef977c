# SPDX-License-Identifier: Apache-2.0
"""The sweep file: its cells, and refused forms."""

import json

import pytest

from sparse_deploy.errors import ConfigError
from sparse_deploy.sweep.grid import MAX_CELLS, Sweep, cell_recipe, expand, load_sweep, varied_keys

MODE, OBSERVER, OPSET = "quantization.mode", "quantization.observer", "export.opset"
SWEEP = {"name": "s", "recipe": "minilm-demo", "checkpoint": "runs/x", "grid": {MODE: ["static", "dynamic"]}}


def sweep(**changes: object) -> Sweep:
    return Sweep.model_validate(SWEEP | changes)


def test_every_choice_is_a_cell_in_the_order_of_the_file():
    found = expand(sweep(grid={MODE: ["static", "dynamic"], OPSET: [17, 20]}))
    assert found == [
        {MODE: "static", OPSET: 17}, {MODE: "static", OPSET: 20}, {MODE: "dynamic", OPSET: 17},
        {MODE: "dynamic", OPSET: 20},
    ]  # fmt: skip


def test_exclude_leaves_out_every_cell_that_holds_all_its_values():
    grid = {MODE: ["static", "dynamic"], OBSERVER: ["minmax", "kl"], OPSET: [17, 20]}
    found = expand(sweep(grid=grid, exclude=[{MODE: "dynamic", OBSERVER: "kl"}]))
    assert len(found) == 6
    assert not [cell for cell in found if cell[MODE] == "dynamic" and cell[OBSERVER] == "kl"]


def test_include_adds_to_cells_that_it_does_not_change_and_else_makes_one():
    grid = {MODE: ["static", "dynamic"]}
    extended, added = {MODE: "static", OBSERVER: "kl"}, {MODE: "none", OPSET: 17}
    assert expand(sweep(grid=grid, include=[extended, added])) == [extended, {MODE: "dynamic"}, added]


def test_include_alone_is_a_list_of_cells():
    assert expand(sweep(grid={}, include=[{OPSET: 17}, {OPSET: 18}])) == [{OPSET: 17}, {OPSET: 18}]


def test_the_recipe_of_a_cell_has_the_shared_and_its_own_settings():
    wanted = sweep(set={"data.validation_samples": 7}, grid={"quantization.exclude": [["pooler", "layer.0"]]})
    (settings,) = expand(wanted)
    recipe = cell_recipe(wanted, settings)
    assert recipe.data.validation_samples == 7
    assert recipe.quantization.exclude == ("pooler", "layer.0")


def test_small_numbers_arrive_as_numbers():
    assert cell_recipe(sweep(), {"export.atol": 1e-05}).export.atol == 1e-05


def test_columns_are_the_keys_that_differ():
    assert varied_keys([{MODE: "static", OPSET: 17}, {MODE: "dynamic", OPSET: 17}]) == (MODE,)
    assert varied_keys([{MODE: "static"}, {MODE: "static", OPSET: 17}]) == (OPSET,)
    assert varied_keys([{MODE: "static"}]) == (MODE,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chekpoint": "x"}, "unknown key 'chekpoint'; did you mean 'checkpoint'"),
        ({"checkpoint": None}, "either checkpoint"),
        ({"finetune": True}, "either checkpoint"),
        ({"grid": {}}, "nothing to run"),
        ({"grid": {MODE: []}}, f"grid.{MODE} has no values"),
        ({"grid": {MODE: "static"}}, f"grid.{MODE}: .*found 'static'"),
        ({"set": {MODE: "none"}}, f"{MODE} is in set"),
        ({"exclude": [{OPSET: 17}]}, f"exclude names {OPSET}"),
        ({"name": "../x"}, "name: "),
        ({"bench": {"latency": "perhaps"}}, "bench.latency: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path, changes, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(SWEEP | changes))
    with pytest.raises(ConfigError, match=message):
        load_sweep(path)


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x\n", "name: !!python/object:os.system x\n", "name: a\nname: b\n", "- 1\n", "{"]
)
def test_unsafe_and_broken_yaml_is_refused(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"sweep\.yaml: "):
        load_sweep(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exclude": [{MODE: "none"}]}, "matches no cell"),
        ({"exclude": [{MODE: "static"}, {MODE: "dynamic"}]}, "leaves no cell"),
        ({"grid": {MODE: ["static", "static"]}}, "two cells are equal"),
        ({"grid": {"finetune.seed": list(range(MAX_CELLS + 1))}}, f"at most {MAX_CELLS}"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        expand(sweep(**changes))


def test_a_wrong_recipe_key_names_the_cell():
    with pytest.raises(ConfigError, match=r'cell \{"quantization.mod": 1\}: .*did you mean .*mode'):
        cell_recipe(sweep(), {"quantization.mod": 1})
