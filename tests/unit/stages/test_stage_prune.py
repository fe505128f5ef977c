# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy prune``: from a dense checkpoint and a text file to a sparse checkpoint, and its refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.checkpoint import zero_masks
from sparse_deploy.cli.main import run
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.data.demo_text import demo_rows
from sparse_deploy.kernels.native import Weight
from sparse_deploy.sparsity.packing import encode
from sparse_deploy.sparsity.pattern import SparsityPattern, holds_pattern
from sparse_deploy.stages.default_recipe import recipe_of_checkpoint
from sparse_deploy.training.recovery import evaluations_within


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "texts.txt"
    path.write_text("".join(row["sentence"] + "\n" for row in demo_rows("train")[:80]), encoding="utf-8")
    return path


def prune(model: Path, output: Path, *options: object) -> int:
    return run(["prune", str(model), "--output", str(output), *map(str, options)])


def refusal(capsys, *arguments: object) -> str:
    code = prune(*arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (2, 5), lines
    assert [line.startswith("sparse-deploy: ") for line in lines].count(True) == 1
    assert not Path(arguments[1]).exists()
    assert not [path for path in Path(arguments[1]).parent.iterdir() if path.name.startswith(".")]
    return lines[-1]


@pytest.mark.parametrize(
    ("pattern", "options"),
    [("1:2", ()), ("unstructured", ("--target", 0.6)), ("4x1", ("--target", 0.5, "--method", "magnitude"))],
)
def test_the_result_is_a_plain_checkpoint_with_its_zeros_on_record(
    tiny_encoder, texts, tmp_path, pattern, options, capsys
):
    output = tmp_path / "pruned"
    assert prune(tiny_encoder, output, "--pattern", pattern, "--text", texts, "--json", *options) == 0
    summary = json.loads(capsys.readouterr().out)
    manifest = load_manifest(output, "checkpoint")
    share = options[1] if options else 0.5
    assert manifest.sparsity["model.safetensors"].sparsity_of_prunable == pytest.approx(share, abs=0.01)
    assert summary["sparsity"] == manifest.sparsity["model.safetensors"].sparsity_of_prunable
    for mask in zero_masks(output, DEFAULT_EXCLUDE).values():
        assert holds_pattern(mask, SparsityPattern.parse(pattern))
    recipe = recipe_of_checkpoint(str(output))  # the recipe of export without a recipe file
    assert (str(recipe.sparsity.pattern).removeprefix("block "), recipe.sparsity.mode.value) == (pattern, "lock")
    batch = AutoTokenizer.from_pretrained(output)(["good film", "bad"], padding=True, return_tensors="pt")
    assert bool(torch.isfinite(AutoModel.from_pretrained(output)(**batch).last_hidden_state).all())
    assert AutoModel.from_pretrained(output).config.architectures == ["BertModel"]


def test_head_and_companions_of_the_model_stay(trained_checkpoint, texts, tmp_path, capsys):
    """A classifier keeps its head; its zeros stay, too, and a sentence encoder's pooling is copied."""
    source = tmp_path / "source"
    shutil.copytree(trained_checkpoint, source)
    (source / "manifest.json").unlink()
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    output = tmp_path / "pruned"
    assert prune(source, output, "--pattern", "unstructured", "--target", 0.8, "--text", texts) == 0
    assert "80.0% of the prunable weights are zero" in capsys.readouterr().err
    before, after = load_file(source / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if "classifier" in name)
    zeros, found = zero_masks(source, DEFAULT_EXCLUDE), zero_masks(output, DEFAULT_EXCLUDE)
    assert all(bool((found[name] >= zeros[name]).all()) for name in zeros)
    assert (output / "1_Pooling" / "config.json").is_file()
    assert load_manifest(output).task == "demo"
    AutoModelForSequenceClassification.from_pretrained(output)


def test_recovery_brings_the_answers_nearer_to_the_dense_model_and_holds_the_zeros(tiny_encoder, texts, tmp_path):
    output = tmp_path / "recovered"
    options = ("--pattern", "1:2", "--text", texts, "--method", "magnitude")
    assert prune(tiny_encoder, output, *options, "--recover", 0.03) == 0
    recovery = load_manifest(output).details["recovery"]
    assert recovery["steps"] > 0
    assert recovery["best"]["loss"] == min(entry["loss"] for entry in recovery["history"])
    assert recovery["best"]["loss"] < recovery["history"][0]["loss"]
    assert prune(tiny_encoder, tmp_path / "plain", *options) == 0
    masks, plain = (zero_masks(folder, DEFAULT_EXCLUDE) for folder in (output, tmp_path / "plain"))
    assert all(np.array_equal(masks[name], plain[name]) for name in plain)


def test_evaluations_take_at_most_a_tenth_of_the_recovery():
    assert evaluations_within(900.0, 5.0) == 12
    assert evaluations_within(240.0, 4.0) == 6
    assert evaluations_within(240.0, 60.0) == 1  # the last state at least


def test_a_drop_is_met_by_shares_that_differ_and_the_plan_is_on_record(tiny_encoder, texts, tmp_path, capsys):
    output, options = tmp_path / "out", ("--pattern", "unstructured", "--text", texts)
    assert prune(tiny_encoder, output, *options, "--max-drop", 0.2, "--json") == 0
    summary, manifest = json.loads(capsys.readouterr().out), load_manifest(output)
    trials = summary["plan"]["trials"]
    assert len(trials) == 5
    met = [trial["zeros"] for trial in trials if trial["drop"] <= 0.2]
    assert manifest.sparsity["model.safetensors"].sparsity_of_prunable >= max(met) - 0.02
    assert len({round(share, 2) for share in summary["shares"].values()}) > 1
    assert summary["answers"]["drop"] <= 0.2
    excluded = manifest.recipe["sparsity"]["exclude"]
    assert all(name in excluded for name in summary["plan"]["dense"])
    # Already sparse: fewer zeros are not possible, and excluded tensors stay in the record.
    again = tmp_path / "again"
    assert prune(output, again, *options, "--max-drop", 0.3) == 0
    before, after = (zero_masks(folder, DEFAULT_EXCLUDE) for folder in (output, again))
    assert all(bool((after[name] >= before[name]).all()) for name in before)


def test_a_speed_is_met_by_the_zeros_that_were_planned(tiny_encoder, texts, tmp_path, capsys):
    """By the cost model on the masks that lie in the checkpoint, not on those that the plan imagined."""
    output = tmp_path / "out"
    options = ("--pattern", "4x1", "--text", texts, "--json")
    assert prune(tiny_encoder, output, *options, "--speed", 1.2) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["predicted_speed"] >= 1.2
    masks = zero_masks(output, DEFAULT_EXCLUDE).values()
    dense, pruned = (
        sum(mask.size * Weight(encode(keep.astype(np.int8))).describe().cost for mask, keep in pairs)
        for pairs in ([(mask, mask | True) for mask in masks], [(mask, ~mask) for mask in masks])
    )
    assert dense / pruned >= 1.2 * 0.95  # other places of the zeros than those that the plan drew


def test_a_speed_beyond_the_kernels_is_refused_with_what_they_reach(tiny_encoder, texts, tmp_path, capsys):
    line = refusal(capsys, tiny_encoder, tmp_path / "out", "--pattern", "1:2", "--text", texts, "--speed", 50)
    assert "--speed 50: at most" in line


def test_bad_options_and_text_are_one_line_and_nothing_is_written(tiny_encoder, texts, tmp_path, capsys):
    output = tmp_path / "out"
    few, empty = tmp_path / "few.txt", tmp_path / "empty.txt"
    few.write_text("a film\n\n")
    empty.write_text("\n\n")
    two = tmp_path / "two.jsonl"
    two.write_text('{"a": "x", "b": "y"}\n')
    for options, words in (
        (("--pattern", "1:2"), "needs unlabelled text"),
        (("--pattern", "1:2", "--text", few), "expected at least 64 tokens"),
        (("--pattern", "1:2", "--text", empty), "found no row with any"),
        (("--pattern", "1:2", "--text", two), "name it with"),
        (("--pattern", "1:2", "--text", two, "--column", "c"), "no column 'c'"),
        (("--pattern", "1:2", "--text", tmp_path / "none.txt"), "none.txt"),
        (("--pattern", "1:2", "--target", 0.7, "--text", texts), "means a target of 0.5"),
        (("--pattern", "unstructured", "--text", texts), "needs a target"),
        (("--pattern", "unstructured", "--target", 1.5, "--text", texts), "--target: Input should be less than 1"),
        (("--pattern", "3x1", "--target", 0.5, "--text", texts), "can't be tiled with block 3x1"),
        (("--pattern", "4x1", "--target", 0.5, "--speed", 2, "--text", texts), "expected one of target, speed"),
        (("--pattern", "dense", "--text", texts), "a pattern other than dense"),
        (("--pattern", "1:2", "--text", texts, "--method", "wanda"), "--method"),
        (("--pattern", "1:2", "--text", texts, "--exclude", "layer"), "no matrix is left to prune"),
        (("--pattern", "1:2", "--text", few, "--recover", 1), "at least 32 texts"),
        (("--pattern", "1:2", "--method", "magnitude", "--recover", 1), "--recover needs unlabelled text"),
    ):
        assert words in refusal(capsys, tiny_encoder, output, *options)


def test_layers_that_see_nothing_are_named(tiny_encoder, texts, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_encoder, broken)
    weights = load_file(broken / "model.safetensors")
    for part in ("weight", "bias"):
        weights[f"encoder.layer.0.output.LayerNorm.{part}"].zero_()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    line = refusal(capsys, broken, tmp_path / "out", "--pattern", "1:2", "--text", texts)
    assert "encoder.layer.1.attention.self.query.weight: expected inputs that vary" in line


def test_an_unknown_architecture_is_named(tiny_encoder, texts, tmp_path, capsys):
    unknown = tmp_path / "unknown"
    shutil.copytree(tiny_encoder, unknown)
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"architectures": ["MyModel"]}))
    assert "no model class 'MyModel'" in refusal(capsys, unknown, tmp_path / "out", "--pattern", "1:2", "--text", texts)


def test_layers_with_shared_weights_are_pruned_by_magnitude_alone(tiny_encoder, texts, tmp_path, capsys):
    """ALBERT runs one layer many times: second order has no Hessian of its own for it, and says so."""
    albert, output = tmp_path / "albert", tmp_path / "out"
    size = AutoConfig.from_pretrained(tiny_encoder)
    AlbertModel(
        AlbertConfig(
            vocab_size=size.vocab_size, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64,
        ),
        add_pooling_layer=False,
    ).save_pretrained(albert)  # fmt: skip
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(albert)
    line = refusal(capsys, albert, output, "--pattern", "1:2", "--text", texts)
    assert "each run once and in order" in line
    assert "--method magnitude" in line
    assert prune(albert, output, "--pattern", "1:2", "--method", "magnitude") == 0
    for mask in zero_masks(output, DEFAULT_EXCLUDE).values():
        assert holds_pattern(mask, SparsityPattern.parse("1:2"))


def test_an_interrupted_run_leaves_nothing(tiny_encoder, texts, tmp_path, monkeypatch):
    from sparse_deploy.stages import prune as stage

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "seal", interrupted)
    assert prune(tiny_encoder, tmp_path / "out", "--pattern", "1:2", "--text", texts) == 130
    assert list(tmp_path.iterdir()) == []
