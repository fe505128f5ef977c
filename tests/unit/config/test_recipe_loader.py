# SPDX-License-Identifier: Apache-2.0
"""Recipes from YAML: reading, refusals, and one-line errors."""

import time

import pytest

from sparse_deploy.config import load_recipe, recipe_from_mapping
from sparse_deploy.config.loader import MAX_RECIPE_BYTES
from sparse_deploy.config.schema import Recipe, SparsityMode
from sparse_deploy.errors import ConfigError

MINIMAL_LINES = ("name: tiny", "task: sst2", "model: {name_or_path: ./runs/tiny}")
MINIMAL = "".join(f"{line}\n" for line in MINIMAL_LINES)


@pytest.fixture
def write(tmp_path):
    def _write(text: str):
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def refusal(write, text, *overrides):
    """The one line that a refused recipe ends with."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_minimal_recipe_has_every_default(write):
    recipe = load_recipe(write(MINIMAL))
    assert recipe == Recipe(name="tiny", task="sst2", model={"name_or_path": "./runs/tiny"})
    assert recipe.sparsity.mode is SparsityMode.NONE
    assert recipe.model.revision == "main"


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("5E-4", 5e-4), ("1e-5", 1e-5), ("0.0005", 5e-4), ("5.0e-04", 5e-4), (".5e-3", 5e-4), ("1", 1.0)],
)
def test_learning_rate_is_a_number_however_it_is_written(write, text, value):
    recipe = load_recipe(write(f"{MINIMAL}finetune: {{learning_rate: {text}}}\n"))
    assert recipe.finetune.learning_rate == value
    assert isinstance(recipe.finetune.learning_rate, float)


@pytest.mark.parametrize("written", ["1:2", '"1:2"'])
def test_n_m_pattern_needs_no_quotes(write, written):
    # YAML 1.1 reads a bare 1:2 as the base-60 number 62.
    recipe = load_recipe(write(f"{MINIMAL}sparsity: {{mode: lock, pattern: {written}, target: 0.5}}\n"))
    assert str(recipe.sparsity.pattern) == "1:2"


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("finetun: {epochs: 1}", "did you mean 'finetune'?"),
        ("finetune: {learning_rat: 1e-4}", "did you mean 'learning_rate'?"),
        ("finetune: {lr: 1e-4}", "known keys here: epochs, max_steps, learning_rate"),
        ("distillation: {teacher: ./x, temprature: 2}", "did you mean 'temperature'?"),
        ("goals: [{metric: f1, type: threshold, valu: 1}]", "did you mean 'value'?"),
        ("sparsity: {patern: unstructured}", "did you mean 'pattern'?"),
    ],
)
def test_unknown_key_names_the_nearest_known_one(write, misspelt, nearest):
    message = refusal(write, f"{MINIMAL}{misspelt}\n")
    assert "unknown key" in message
    assert nearest in message


def test_misspelt_required_key_is_reported_as_unknown_not_as_missing(write):
    message = refusal(write, MINIMAL.replace("name_or_path", "name_or_pth"))
    assert "unknown key 'model.name_or_pth'; did you mean 'name_or_path'?" in message


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "task: mnli\n",
        MINIMAL + '"task": mnli\n',
        MINIMAL + "finetune:\n  epochs: 1\n  seed: 3\n  epochs: 2\n",
    ],
)
def test_key_given_twice(write, text):
    assert "is given twice" in refusal(write, text)


def test_alias_bomb_is_refused_before_it_grows(write):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]  # 10 ** 12 leaves
    start = time.perf_counter()
    assert "aliases" in refusal(write, "\n".join(levels))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system", "!mine", "!!set"]
)
def test_tag_is_refused_and_nothing_runs(write, tmp_path, tag):
    marker = tmp_path / "ran"
    assert "tags are not allowed" in refusal(write, f"{MINIMAL}description: {tag} ['{marker}']\n")
    assert not marker.exists()


@pytest.mark.parametrize("text", ["[" * 50_000, "a:\n" + "- " * 50_000, "{a: " * 50_000])
def test_deep_nesting_is_refused(write, text):
    assert "not a usable YAML file" in refusal(write, text)


def test_file_longer_than_a_recipe(write):
    message = refusal(write, MINIMAL + "#" * MAX_RECIPE_BYTES)
    assert f"at most {MAX_RECIPE_BYTES} bytes" in message


def test_longest_recipe_is_read(write):
    text = MINIMAL + "#"
    assert load_recipe(write(text + "#" * (MAX_RECIPE_BYTES - len(text)))).name == "tiny"


def test_endless_file_is_not_read_to_its_end(tmp_path):
    endless = tmp_path / "endless.yaml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="at most"):
        load_recipe(endless)


def test_missing_file_folder_and_binary_file(tmp_path):
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"\x93NUMPY\xff\xfe")
    for path in (tmp_path / "no.yaml", binary):
        with pytest.raises(ConfigError, match=r"can't read the recipe: .* Recipes are in export_configs/"):
            load_recipe(path)
    with pytest.raises(ConfigError, match="neither a recipe file nor one of the"):
        load_recipe(tmp_path)


def test_shipped_recipe_by_name_and_its_nearest_name():
    assert load_recipe("minilm-demo").name == "minilm-demo"
    with pytest.raises(ConfigError, match="did you mean 'minilm-demo'"):
        load_recipe("minilm-dmeo")


@pytest.mark.parametrize(
    ("text", "found"), [("", "NoneType"), ("- a\n- b\n", "list"), ("just words", "str"), ("7", "int")]
)
def test_not_a_mapping(write, text, found):
    assert refusal(write, text).endswith(f"a recipe is a mapping of keys to values, found {found}")


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "---\nname: second\n",  # two documents
        MINIMAL + "? [a, b]\n: 1\n",  # a list as key
        MINIMAL + "description: \x00\n",
        MINIMAL + "description: 'never closed\n",
        MINIMAL + "finetune:\n\tepochs: 1\n",  # tab
        MINIMAL + f"finetune: {{seed: {'9' * 5000}}}\n",
        MINIMAL + "description: 2001-99-99\n",
    ],
)
def test_broken_yaml_is_one_line(write, text):
    assert "not a usable YAML file" in refusal(write, text)


REFUSED_VALUES = {
    "name: [tiny]": "name",
    "task: sst-2": "task",
    "model: ./runs/tiny": "model",
    "model: {name_or_path: ./x, dropout: 1.0}": "model.dropout",
    "data: {max_length: 4}": "data.max_length",
    "data: {max_length: long}": "data.max_length",
    "data: {train_samples: 0}": "data.train_samples",
    "finetune:": "finetune",
    "finetune: {epochs: 0}": "finetune.epochs",
    "finetune: {epochs: 1e999}": "finetune.epochs",
    "finetune: {learning_rate: .inf}": "finetune.learning_rate",
    "finetune: {learning_rate: nan}": "finetune.learning_rate",
    "finetune: {learning_rate: -1e-4}": "finetune.learning_rate",
    "finetune: {train_batch_size: 2.5}": "finetune.train_batch_size",
    "finetune: {adam_beta2: 1.0}": "finetune.adam_beta2",
    "finetune: {precision: fp16}": "finetune.precision",
    "finetune: {lr_scheduler: polynomial}": "finetune.lr_scheduler",
    "finetune: {seed: 4294967296}": "finetune.seed",
    "sparsity: {mode: lock}": "mode lock needs a pattern",
    "sparsity: {pattern: unstructured, target: 0.7}": "needs mode lock or prune",
    "sparsity: {mode: prune, pattern: unstructured}": "needs a target above 0",
    "sparsity: {mode: lock, pattern: 1:2, target: 0.7}": "means target 0.5",
    "sparsity: {mode: lock, pattern: 2:1, target: 0.5}": "expected dense, unstructured, N:M",
    "sparsity: {mode: lock, pattern: 4by1, target: 0.8}": "expected dense, unstructured, N:M",
    "sparsity: {mode: lock, pattern: 62, target: 0.5}": "sparsity.pattern",
    "sparsity: {mode: prune, pattern: 4x1, target: 1.0}": "sparsity.target",
    "sparsity: {mode: prune, pattern: 4x1, target: 0.8, begin: 0.6, end: 0.4}": "begin must not be after end",
    "distillation: {temperature: 2.0}": "distillation.teacher",
    "distillation: {teacher: ./x, alpha: 1.5}": "distillation.alpha",
    "distillation: {teacher: ./x, temperature: 0}": "distillation.temperature",
    "quantization: {mode: int4}": "quantization.mode",
    "export: {opset: 13}": "export.opset",
    "bench: {runtimes: [tensorrt]}": "bench.runtimes.0",
    "bench: {shapes: [[1, 2, 3]]}": "bench.shapes.0",
    "goals: [{metric: f1, type: at-least, value: 1}]": "goals.0.type",
    "goals: {metric: f1}": "goals",
    "reference: [{metrics: {f1: high}, source: x}]": "reference.0.metrics.f1",
}


@pytest.mark.parametrize("line", REFUSED_VALUES)
def test_wrong_value_is_refused_with_its_place(write, tmp_path, line):
    key = line.split(":", 1)[0]
    others = [other for other in MINIMAL_LINES if not other.startswith(f"{key}:")]
    message = refusal(write, "\n".join([*others, line]))
    assert REFUSED_VALUES[line] in message
    assert message.startswith(str(tmp_path / "tiny.yaml"))


def test_long_wrong_value_is_quoted_in_short(write):
    message = refusal(write, f"{MINIMAL}finetune: {{epochs: {'word ' * 5000}}}\n")
    assert "finetune.epochs" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("finetune.epochs=0.5", lambda r: r.finetune.epochs == 0.5),
        ("finetune.learning_rate=5e-4", lambda r: r.finetune.learning_rate == 5e-4),
        ("finetune.group_by_length=false", lambda r: r.finetune.group_by_length is False),
        ("data.train_samples=null", lambda r: r.data.train_samples is None),
        ("data.train_samples=64", lambda r: r.data.train_samples == 64),
        ("distillation.teacher=./runs/a=b", lambda r: r.distillation.teacher == "./runs/a=b"),
        ("bench.runtimes=[onnxruntime]", lambda r: r.bench.runtimes == ("onnxruntime",)),
        ('model.name_or_path="Intel/x"', lambda r: r.model.name_or_path == "Intel/x"),
        ("sparsity={mode: lock, pattern: 1:2, target: 0.5}", lambda r: r.sparsity.mode is SparsityMode.LOCK),
        (" task =mnli", lambda r: r.task == "mnli"),
    ],
)
def test_set_overrides_a_key_with_a_value_of_its_type(write, override, read):
    assert read(load_recipe(write(MINIMAL), [override]))


def test_later_override_wins_and_the_file_stays_as_it_is(write):
    path = write(MINIMAL)
    recipe = load_recipe(path, ["finetune.epochs=1", "finetune.epochs=2", "finetune.seed=7"])
    assert (recipe.finetune.epochs, recipe.finetune.seed) == (2.0, 7)
    assert path.read_text(encoding="utf-8") == MINIMAL


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("finetune.epochs", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("finetune..epochs=1", "expected key.path=value"),
        (".epochs=1", "expected key.path=value"),
        ("", "expected key.path=value"),
        ("name.first=x", "name holds a plain value"),
        ("finetune.epoch=1", "did you mean 'epochs'?"),
        ("finetun.epochs=1", "did you mean 'finetune'?"),
        ("finetune.epochs=many", "finetune.epochs"),
        ("finetune.epochs=", "finetune.epochs"),
        ("finetune=[1", "not a usable YAML file"),
        ("name=!!python/name:os.system x", "tags are not allowed"),
    ],
)
def test_bad_override(write, override, expected):
    assert expected in refusal(write, MINIMAL, override)


def test_recipe_survives_json(write):
    text = MINIMAL + "sparsity: {mode: prune, pattern: 4x1, target: 0.8}\nfinetune: {learning_rate: 5e-4}\n"
    recipe = load_recipe(write(text))
    assert recipe_from_mapping(recipe.model_dump(mode="json"), "manifest.json") == recipe


def test_recipe_can_not_be_changed(write):
    recipe = load_recipe(write(MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        recipe.finetune.epochs = 9
