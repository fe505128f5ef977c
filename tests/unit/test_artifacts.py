# SPDX-License-Identifier: Apache-2.0
"""An artifact folder is whole or it is not there: after errors, Ctrl-C, SIGKILL, and on a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_deploy.artifact_target import MANIFEST_NAME, check_writable_target
from sparse_deploy.artifacts import (
    Manifest,
    Source,
    load_manifest,
    seal,
    staged_folder,
    write_json_atomically,
    write_text_atomically,
)
from sparse_deploy.errors import ArtifactError, ConfigError, ExitCode
from sparse_deploy.file_records import file_sha256


def manifest(kind="deployment", **fields):
    return Manifest(kind=kind, task="sst2", source=Source(name_or_path="x"), recipe={}, sparsity={}, **fields)


def make_artifact(target, content="weights", kind="deployment", extra=()):
    with staged_folder(target, kind) as staging:
        (staging / "tokenizer").mkdir()
        (staging / "model.onnx").write_text(content)
        (staging / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
        for name in extra:
            (staging / name).write_text("more")
        return seal(staging, manifest(kind))


def everything_beside(target):
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_sealed_folder_is_published_with_hashes_of_all_files(tmp_path):
    target = tmp_path / "not" / "yet" / "there"
    written = make_artifact(target)
    assert load_manifest(target, "deployment") == written
    assert [record.path for record in written.files] == ["model.onnx", "tokenizer/vocab.txt"]
    assert written.files[0].sha256 == file_sha256(target / "model.onnx")
    assert written.files[0].bytes == 7
    assert written.versions["numpy"]
    assert written.created.endswith("+00:00")
    assert everything_beside(target) == []
    assert target.stat().st_mode & 0o777 == 0o755


def test_nothing_is_visible_before_the_end(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target, "deployment") as staging:
        seal(staging, manifest())
        assert not target.exists()
        assert staging.parent == target.parent  # same file system, so that the rename is atomic
    assert target.is_dir()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("sealed", [False, True])
def test_error_leaves_nothing(tmp_path, error, sealed):
    target = tmp_path / "out"
    with pytest.raises(type(error)), staged_folder(target, "deployment") as staging:  # noqa: PT012
        (staging / "model.onnx").write_text("half")
        if sealed:
            seal(staging, manifest())
        raise error
    assert list(tmp_path.iterdir()) == []


def test_error_leaves_the_earlier_artifact(tmp_path):
    target = tmp_path / "out"
    first = make_artifact(target)
    with pytest.raises(ValueError, match="broken"), staged_folder(target, "deployment"):
        raise ValueError("broken")
    assert load_manifest(target) == first
    assert everything_beside(target) == []


def test_unsealed_folder_is_not_published(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ArtifactError, match="without a manifest"), staged_folder(target, "deployment") as staging:
        (staging / "model.onnx").write_text("half")
    assert list(tmp_path.iterdir()) == []


def test_earlier_artifact_is_replaced_whole(tmp_path):
    target = tmp_path / "out"
    make_artifact(target, extra=["old_file"])
    make_artifact(target, content="new weights")
    assert (target / "model.onnx").read_text() == "new weights"
    assert not (target / "old_file").exists()
    load_manifest(target)
    assert everything_beside(target) == []


def test_foreign_folder_and_file_are_not_overwritten(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("years of work")
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("x")
    link.symlink_to(foreign)
    for target in (foreign, file, link):
        with (
            pytest.raises(ConfigError, match="Choose another --output"),
            staged_folder(target, "deployment") as staging,
        ):
            seal(staging, manifest())
    assert (foreign / "chapter1.tex").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "thesis"]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "My site", "icons": []}', '{"kind": "deployment"}', "[]", "", "[" * 100_000,
        '{"kind": "deployment", "files": [1]}', '{"kind": "model-repository", "files": []}',
    ],
)  # fmt: skip
def test_a_folder_with_somebody_elses_manifest_is_kept(tmp_path, text):
    site = tmp_path / "site"
    (site / ".git").mkdir(parents=True)
    (site / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (site / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="not replaced"), staged_folder(site, "deployment") as staging:
        seal(staging, manifest())
    assert (site / ".git" / "HEAD").is_file()


@pytest.mark.parametrize("name", [".git/HEAD", "notes.txt", "README.md", "link"])
def test_what_somebody_put_into_an_artifact_is_kept(tmp_path, name):
    target = tmp_path / "out"
    make_artifact(target)
    added = target / name
    added.parent.mkdir(exist_ok=True)
    if name == "link":
        added.symlink_to(tmp_path, target_is_directory=True)
    else:
        added.write_text("mine")
    with pytest.raises(ConfigError, match="which the manifest does not list, so it is not replaced"):
        make_artifact(target)
    assert added.exists()
    assert everything_beside(target) == []


def test_another_kind_and_the_source_are_kept(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    make_artifact(checkpoint, kind="checkpoint")
    with pytest.raises(ConfigError, match="it is a 'checkpoint' and not a deployment, so it is not replaced"):
        make_artifact(checkpoint)
    (tmp_path / "link").symlink_to(checkpoint)
    for target in (checkpoint, checkpoint / "out", tmp_path, tmp_path / "link", tmp_path / "x" / ".." / "checkpoint"):
        with pytest.raises(ConfigError, match="expected a place outside of"):
            check_writable_target(target, "checkpoint", [checkpoint])
    check_writable_target(tmp_path / "checkpoint2", "checkpoint", [checkpoint])


def test_empty_folder_may_be_used(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    check_writable_target(target, "deployment")
    make_artifact(target)
    load_manifest(target)


def alter(target: Path, how: str) -> None:
    file = target / "model.onnx"
    if how == "one byte":
        file.write_text("weightz")
    elif how == "longer":
        file.write_text("weights and more")
    elif how == "missing":
        file.unlink()
    elif how == "folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize("how", ["one byte", "longer", "missing", "folder"])
def test_altered_file_is_found(tmp_path, how):
    target = tmp_path / "out"
    make_artifact(target)
    alter(target, how)
    with pytest.raises(ArtifactError, match=r"model\.onnx") as caught:
        load_manifest(target)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    load_manifest(target, verify=False)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname"])
def test_manifest_can_not_point_outside(tmp_path, path):
    target = tmp_path / "out"
    make_artifact(target)
    data = json.loads((target / MANIFEST_NAME).read_text())
    data["files"][0]["path"] = path
    (target / MANIFEST_NAME).write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="outside the folder"):
        load_manifest(target)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"kind": "deployment"}', None, b"\xff\xfe", "[" * 100_000, b" " * (16 * 2**20 + 1)],
    ids=["empty", "cut", "list", "too little", "unknown key", "not utf-8", "deep", "long"],
)
def test_damaged_manifest(tmp_path, content):
    target = tmp_path / "out"
    make_artifact(target)
    path = target / MANIFEST_NAME
    if content is None:
        content = json.dumps(json.loads(path.read_text()) | {"surprise": 1})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError, match="not a readable manifest") as caught:
        load_manifest(target)
    assert "\n" not in str(caught.value)


def test_a_key_that_comes_twice_is_refused(tmp_path):
    """Readers use different ones of duplicate keys: one would verify a value that another does not use."""
    target = tmp_path / "out"
    make_artifact(target)
    path = target / MANIFEST_NAME
    path.write_text(path.read_text().replace('"task": "sst2"', '"task": "squad", "task": "sst2"'))
    with pytest.raises(ArtifactError, match="key 'task' is given twice"):
        load_manifest(target)


def test_missing_unfinished_and_wrong_kind(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        load_manifest(tmp_path / "nowhere", "checkpoint")
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        load_manifest(tmp_path)
    make_artifact(tmp_path / "out", kind="checkpoint")
    with pytest.raises(ArtifactError, match="expected a deployment folder, found a checkpoint"):
        load_manifest(tmp_path / "out", "deployment")
    load_manifest(tmp_path / "out", "checkpoint")


CHILD = """
import os, sys, time
from pathlib import Path
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder
with staged_folder(Path(sys.argv[1]), "deployment") as staging:
    (staging / "model.onnx").write_bytes(os.urandom(1 << 20))
    if sys.argv[2] == "sealed":
        seal(staging, Manifest(kind="deployment", task="sst2", source=Source(name_or_path="x"), recipe={}, sparsity={}))
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["writing", "sealed"])
@pytest.mark.parametrize("earlier", [False, True])
def test_sigkill_leaves_no_new_manifest_at_the_target(tmp_path, moment, earlier):
    target = tmp_path / "out"
    before = make_artifact(target) if earlier else None
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(target), moment], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"ready\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    if earlier:
        assert load_manifest(target) == before
    else:
        assert not target.exists()
    make_artifact(target, content="again")  # files of the killed writer do not prevent a new one
    load_manifest(target)


@pytest.fixture
def tiny_disk(tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_full_disk_is_one_clear_line_and_leaves_nothing(tiny_disk):
    target = tiny_disk / "out"
    with (
        pytest.raises(ArtifactError, match="the disk is full") as caught,
        staged_folder(target, "deployment") as staging,
    ):
        (staging / "model.onnx").write_bytes(bytes(1 << 20))
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert list(tiny_disk.iterdir()) == []


def test_disk_full_at_the_manifest_keeps_the_earlier_artifact(tiny_disk):
    target = tiny_disk / "out"
    before = make_artifact(target)
    with pytest.raises(ArtifactError, match="the disk is full"), staged_folder(target, "deployment") as staging:  # noqa: PT012
        free = os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize
        (staging / "model.onnx").write_bytes(bytes(free))
        seal(staging, manifest())
    assert load_manifest(target) == before
    assert everything_beside(target) == []


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="can't write"), staged_folder(tmp_path / "file" / "out", "deployment"):
        pass


def test_io_error_inside_the_block_is_mapped(tmp_path):
    with pytest.raises(ArtifactError, match="disk is full"), staged_folder(tmp_path / "out", "deployment"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert list(tmp_path.iterdir()) == []


def test_read_only_source_files_can_be_sealed(tmp_path):
    # Files copied from a read-only store (the hub cache, a Nix or pip store) keep their mode.
    with staged_folder(tmp_path / "out", "deployment") as staging:
        (staging / "vocab.txt").write_text("[PAD]\n")
        (staging / "vocab.txt").chmod(0o444)
        seal(staging, manifest())
    load_manifest(tmp_path / "out")


def test_text_is_written_atomically(tmp_path):
    path = tmp_path / "report.json"
    write_json_atomically(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    write_text_atomically(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(ArtifactError, match="can't write"):
        write_text_atomically(tmp_path / "no" / "folder.json", "x")


def test_failed_write_keeps_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ArtifactError, match="disk is full"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
