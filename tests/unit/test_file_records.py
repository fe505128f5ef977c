# SPDX-License-Identifier: Apache-2.0
"""The list of an artifact's files: valid paths, allowed unlisted files, and the limits."""

import json
import os
from pathlib import Path

import pytest

from sparse_deploy import artifacts, file_records
from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import Manifest, Source, load_manifest, seal, staged_folder
from sparse_deploy.errors import ArtifactError, ExitCode


def make(target: Path, kind: str = "deployment") -> Path:
    with staged_folder(target, "deployment") as staging:
        (staging / "tokenizer").mkdir()
        (staging / "model.onnx").write_text("weights")
        (staging / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
        seal(staging, Manifest(kind=kind, task="sst2", source=Source(name_or_path="x"), recipe={}, sparsity={}))
    return target


@pytest.fixture
def deployment(tmp_path):
    return make(tmp_path / "out")


def edit(folder: Path, change) -> None:
    data = json.loads((folder / MANIFEST_NAME).read_text())
    change(data)
    (folder / MANIFEST_NAME).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../outside", "outside the folder"),
        ("tokenizer/../../outside", "outside the folder"),
        ("/etc/hostname", "outside the folder"),
        ("..\\outside", "outside the folder"),
        ("C:outside", "outside the folder"),
        ("model.onnx\0.txt", "not a plain path"),
        ("./model.onnx", "not a plain path"),
        ("tokenizer//vocab.txt", "not a plain path"),
        ("tokenizer/.hidden/x", "not a plain path"),
        ("", "not a plain path"),
        (".", "not a plain path"),
        ("x" * 600, "not a plain path"),
        ("a\nb", "not a plain path"),
        ("tokenizer/vocab.txt", "twice"),
        ("TOKENIZER/vocab.txt", "twice"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_paths_that_no_manifest_of_ours_holds(deployment, path, said, verify):
    edit(deployment, lambda data: data["files"][0].update(path=path))
    with pytest.raises(ArtifactError, match=said) as caught:
        load_manifest(deployment, verify=verify)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["extra.onnx", "tokenizer/model.bin", "special_tokens_map.json", "code.py", "lib.so"])
def test_a_file_that_is_not_listed(deployment, name):
    (deployment / name).write_text("x")
    with pytest.raises(ArtifactError, match="not in the manifest"):
        load_manifest(deployment)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", ".gitattributes", ".cache/huggingface/x", "docs/notes.md"])
def test_what_people_and_tools_add_is_let_through(deployment, name):
    (deployment / name).parent.mkdir(parents=True, exist_ok=True)
    (deployment / name).write_text("x")
    load_manifest(deployment)


def link_file(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def link_folder(folder: Path) -> None:
    (folder / "tokenizer").rename(folder.parent / "elsewhere")
    (folder / "tokenizer").symlink_to(folder.parent / "elsewhere")


def link_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).rename(folder.parent / "elsewhere")
    (folder / MANIFEST_NAME).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("link", [link_file, link_folder, link_manifest])
def test_links_inside_a_deployment_are_refused(deployment, link):
    link(deployment)
    with pytest.raises(ArtifactError, match="symbolic link"):
        load_manifest(deployment)


def test_a_link_to_the_whole_deployment_is_not_inside_it(deployment, tmp_path):
    (tmp_path / "current").symlink_to(deployment)
    load_manifest(tmp_path / "current")


def test_a_checkpoint_in_the_cache_of_the_hub_consists_of_links(tmp_path):
    folder = make(tmp_path / "out", "checkpoint")
    link_file(folder)
    load_manifest(folder, "checkpoint")
    (folder.parent / "elsewhere").write_text("weightz")
    with pytest.raises(ArtifactError, match="not the one"):
        load_manifest(folder, "checkpoint")


def test_hard_links_are_let_through_and_their_content_compared(deployment, tmp_path):
    os.link(deployment / "model.onnx", tmp_path / "second name")
    load_manifest(deployment)
    (tmp_path / "second name").write_text("weightz")
    with pytest.raises(ArtifactError, match="not the one"):
        load_manifest(deployment)


def test_devices_and_pipes_are_refused_without_waiting(deployment):
    (deployment / "model.onnx").unlink()
    os.mkfifo(deployment / "model.onnx")
    with pytest.raises(ArtifactError, match="not a regular file"):
        load_manifest(deployment)


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MAX_FILES", 1, "lists 2 files"),
        ("MAX_FILE_BYTES", 6, "has 7 bytes, allowed are 6"),
        ("MAX_TOTAL_BYTES", 12, "have 13 bytes together"),
    ],
)
def test_limits(deployment, monkeypatch, limit, value, said):
    monkeypatch.setattr(file_records, limit, value + 1 if limit != "MAX_FILES" else 2)
    load_manifest(deployment)
    monkeypatch.setattr(file_records, limit, value)
    with pytest.raises(ArtifactError, match=said):
        load_manifest(deployment)


def test_a_huge_manifest_is_not_read(deployment, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ArtifactError, match="larger than 100 bytes"):
        load_manifest(deployment)


def test_deep_json_is_refused(deployment):
    text = (deployment / MANIFEST_NAME).read_text()
    for depth in (1000, 1_000_000):
        deep = '{"a":' * depth + "1" + "}" * depth
        (deployment / MANIFEST_NAME).write_text(text.replace('"recipe": {}', f'"recipe": {deep}'))
        with pytest.raises(ArtifactError, match="not a readable manifest"):
            load_manifest(deployment)


@pytest.mark.parametrize("change", [{"bytes": -1}, {"sha256": "x"}, {"sha256": "../" * 21 + "x"}])
def test_records_that_are_none(deployment, change):
    edit(deployment, lambda data: data["files"][0].update(change))
    with pytest.raises(ArtifactError):
        load_manifest(deployment)


def test_hidden_files_of_a_stage_are_not_listed(tmp_path):
    with staged_folder(tmp_path / "out", "deployment") as staging:
        (staging / ".cache").write_text("x")
        manifest = seal(
            staging, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={})
        )
    assert manifest.files == ()
    load_manifest(tmp_path / "out")
