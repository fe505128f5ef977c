# SPDX-License-Identifier: Apache-2.0
"""Bad input ends in one clear line and the documented exit code, and leaves nothing that looks whole."""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import demo_recipe

from sparse_deploy import artifacts
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode


@pytest.fixture
def recipe(sparse_encoder, tmp_path) -> Path:
    return save(tmp_path / "recipe.yaml", demo_recipe(sparse_encoder))


def save(path: Path, recipe) -> Path:
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    return path


def refused(capsys, arguments: list, code: ExitCode, *words: str) -> str:
    """Run a command that must fail with one line that holds the given words; only progress may stand before it."""
    capsys.readouterr()
    assert run([str(a) for a in arguments]) == code
    lines = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    while len(lines) > 1 and lines[0].startswith(f"{arguments[0]} "):
        del lines[0]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    return lines[0]


def write_rows(folder: Path, split: str, rows: list[dict]) -> None:
    (folder / "demo").mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "demo" / f"{split}.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def test_nothing_is_written_into_or_over_what_is_read(recipe, tiny_deployment, tmp_path, capsys):
    deployment = tmp_path / "deployment"
    shutil.copytree(tiny_deployment, deployment)
    for option in ("--report", "--save-baseline"):
        refused(capsys, ["bench", deployment, option, deployment / "x"], ExitCode.USAGE, option, "outside of")
    command = ["export", deployment, "-c", recipe, "--output"]
    refused(capsys, [*command, deployment], ExitCode.USAGE, "expected a place outside of")
    command = ["repository", deployment, "--server", "kserve", "--output"]
    refused(capsys, [*command, deployment], ExitCode.USAGE, "expected a place outside of")
    refused(capsys, [*command, tmp_path], ExitCode.USAGE, "expected a place outside of")
    load_manifest(deployment, "deployment")


def test_devices_without_end_are_read_to_a_limit(tiny_deployment, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_JSON_BYTES", 2**20)
    command = ["bench", tiny_deployment, "--report", tmp_path / "report", "--against", "/dev/zero", "--no-latency"]
    refused(capsys, command, ExitCode.BAD_ARTIFACT, "/dev/zero", "at most 1048576 bytes")
    refused(capsys, ["serve", tiny_deployment, "--token-file", "/dev/zero"], ExitCode.USAGE, "larger than 65536 bytes")


@pytest.mark.parametrize("content", ["", "\n", "two words", "\x00"])
def test_a_token_file_without_a_token_starts_no_server(tiny_deployment, tmp_path, capsys, monkeypatch, content):
    (tmp_path / "token").write_text(content)
    command = ["serve", tiny_deployment]
    refused(capsys, [*command, "--token-file", tmp_path / "token"], ExitCode.USAGE, "expected a token")
    monkeypatch.setenv("SPARSE_DEPLOY_TOKEN_FILE", "")
    refused(capsys, command, ExitCode.USAGE, "expected a file with a token")


def test_missing_folders(recipe, tmp_path, capsys):
    nowhere = tmp_path / "no" / "where"
    refused(capsys, ["export", nowhere, "-c", recipe, "--output", tmp_path / "out"], ExitCode.USAGE, str(nowhere))
    refused(capsys, ["bench", nowhere], ExitCode.USAGE, "no such folder")
    refused(capsys, ["inspect", nowhere], ExitCode.USAGE, str(nowhere))
    refused(capsys, ["finetune", "-c", nowhere / "x.yaml"], ExitCode.USAGE, "recipe")
    refused(capsys, ["finetune", "-c", "minilm-dmo"], ExitCode.USAGE, "did you mean 'minilm-demo'")
    refused(
        capsys, ["finetune", "-c", recipe, "--data-dir", nowhere, "--output", tmp_path / "o", "--set", "task=sst2"],
        ExitCode.USAGE, "sst2/validation.jsonl.gz", "no such folder",
    )  # fmt: skip


def test_wrong_task(trained_checkpoint, tiny_encoder, recipe, tmp_path, capsys):
    out = tmp_path / "out"
    qa = ["export", trained_checkpoint, "-c", recipe, "--set", "task=squad", "--output", out]
    refused(capsys, qa, ExitCode.USAGE, "ForQuestionAnswering", "BertForSequenceClassification")
    three = ["export", trained_checkpoint, "-c", recipe, "--set", "task=mnli", "--output", out]
    refused(capsys, three, ExitCode.USAGE, "expected 3")
    refused(capsys, ["export", tiny_encoder, "-c", recipe, "--output", out], ExitCode.USAGE, "BertModel")
    assert not out.exists()


def test_promised_pattern_missing(trained_checkpoint, recipe, tmp_path, capsys):
    changes = ["--set", "sparsity.pattern='1:2'", "--set", "sparsity.target=0.5"]
    command = ["export", trained_checkpoint, "-c", recipe, *changes, "--output", tmp_path / "out"]
    refused(capsys, command, ExitCode.BAD_ARTIFACT, "requires 1:2", "unstructured with 70")
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_truncated_and_pickled_weights(sparse_encoder, recipe, tmp_path, capsys):
    broken = shutil.copytree(sparse_encoder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    refused(capsys, ["finetune", "-c", recipe, "--model", broken], ExitCode.BAD_ARTIFACT, "truncated")
    refused(capsys, ["inspect", broken], ExitCode.BAD_ARTIFACT, "truncated")
    weights.unlink()
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (broken / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    refused(capsys, ["finetune", "-c", recipe, "--model", broken], ExitCode.BAD_ARTIFACT, "--allow-pickle")
    allowed = ["finetune", "-c", recipe, "--model", broken, "--allow-pickle", "--output", tmp_path / "out"]
    refused(capsys, allowed, ExitCode.BAD_ARTIFACT)
    assert not marker.exists()


def test_remote_code_is_never_run(sparse_encoder, recipe, tmp_path, capsys):
    remote = shutil.copytree(sparse_encoder, tmp_path / "remote")
    config = json.loads((remote / "config.json").read_text())
    (remote / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (remote / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    refused(capsys, ["finetune", "-c", recipe, "--model", remote], ExitCode.BAD_ARTIFACT, "auto_map")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "alias"),
        ("!!python/object/apply:os.system ['touch x']\n", "YAML"),
        ("name: x\ntask: sst2\nmodel: {name_or_path: y}\nfinetune: {epoch: 1}\n", "did you mean 'epochs'"),
        ("- a\n- b\n", "mapping"),
    ],
)
def test_bad_recipes(text, word, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    refused(capsys, ["finetune", "-c", path], ExitCode.USAGE, word)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"sentence": "fine", "label": "happy"}, "happy"),
        ({"sentence": "  ", "label": 1}, "empty"),
        ({"sentence": "fine", "label": 7}, "7"),
        ({"text": "fine", "label": 1}, "sentence"),
    ],
)
def test_bad_rows(row, word, recipe, tmp_path, capsys):
    good = [{"sentence": f"fine day {i}", "label": i % 2} for i in range(20)]
    write_rows(tmp_path / "data", "train", [*good, row])
    write_rows(tmp_path / "data", "validation", good)
    command = ["finetune", "-c", recipe, "--data-dir", tmp_path / "data", "--output", tmp_path / "out"]
    refused(capsys, command, ExitCode.USAGE, word)
    assert not (tmp_path / "out").exists()


def test_text_longer_than_the_window_is_cut_and_counted(recipe, tmp_path, capsys):
    rows = [{"sentence": "the room was clean and bright " * (30 if i == 3 else 1), "label": i % 2} for i in range(40)]
    for split in ("train", "validation"):
        write_rows(tmp_path / "data", split, rows)
    common = ["-c", str(recipe), "--data-dir", str(tmp_path / "data"), "--set", "export.int8_agreement=0"]
    assert run(["finetune", *common, "--output", str(tmp_path / "c")]) == ExitCode.OK
    assert run(["export", str(tmp_path / "c"), *common, "--output", str(tmp_path / "d")]) == ExitCode.OK
    capsys.readouterr()
    bench = ["bench", str(tmp_path / "d"), "--data-dir", str(tmp_path / "data"), "--no-latency", "--json"]
    assert run([*bench, "--runtime", "onnxruntime", "--report", str(tmp_path / "r")]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["settings"]["truncated_examples"] == 1


def test_foreign_folder_is_not_overwritten(recipe, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    refused(capsys, ["finetune", "-c", recipe, "--output", tmp_path / "mine"], ExitCode.USAGE, "not replaced")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_altered_deployment_is_refused(trained_checkpoint, tmp_path, capsys):
    altered = shutil.copytree(trained_checkpoint, tmp_path / "altered")
    refused(capsys, ["bench", altered], ExitCode.BAD_ARTIFACT, "deployment", "checkpoint")
    weights = bytearray((altered / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "model.safetensors").write_bytes(weights)
    refused(capsys, ["inspect", altered], ExitCode.BAD_ARTIFACT, "not the one that the manifest describes")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk_while_exporting(trained_checkpoint, recipe, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        command = ["export", trained_checkpoint, "-c", recipe, "--output", small / "deployment"]
        refused(capsys, command, ExitCode.BAD_ARTIFACT, "disk is full")
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)  # a session of the failed run may hold a file


def test_help_answers_at_once_without_heavy_imports():
    code = (
        "import sys; from sparse_deploy.cli.main import run; run(['--help']);"
        "names = ('torch', 'transformers', 'openvino', 'onnxruntime', 'datasets', 'matplotlib', 'onnx');"
        "heavy = set(names) & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_usage_errors_are_one_line(capsys):
    refused(capsys, ["finetune"], ExitCode.USAGE, "--recipe")
    refused(capsys, ["frobnicate"], ExitCode.USAGE, "frobnicate")
