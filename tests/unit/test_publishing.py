# SPDX-License-Identifier: Apache-2.0
"""Replacing a folder or file: killed at every single step, raced by other processes, on file systems with and without
an exchange of names and locks.
"""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparse_deploy import publishing
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, Source, load_manifest, seal, staged_folder
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.publishing import clear_leftovers, exchange, only_writer, write_bytes_atomically

# Writes artifacts in forks of itself (an import of pydantic per kill would take minutes). Each fork kills itself before
# its Nth call into the system; the first that survives has passed every step.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from sparse_deploy import publishing
from sparse_deploy.artifacts import Manifest, Source, load_manifest, seal, staged_folder, write_text_atomically
from sparse_deploy.errors import ConfigError

target, kind, earlier, exchange = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True", sys.argv[4] == "True"
if not exchange:
    publishing.exchange = lambda one, other: False
CALLS = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree", "fcntl.flock",
         "ctypes.dlopen", "tempfile.mkdtemp", "os.listdir", "os.scandir"}

def write(content):
    if kind == "file":
        write_text_atomically(target, content)
        return
    with staged_folder(target, "deployment") as staging:
        for name in ("model.onnx", "config.json"):
            (staging / name).write_text(content + name)
        source = Source(name_or_path="x")
        seal(staging, Manifest(kind="deployment", task=content, source=source, recipe={}, sparsity={}))

def read():
    if kind == "file":
        return target.read_text() if target.exists() else None
    try:
        manifest = load_manifest(target, "deployment")
    except ConfigError:
        return None
    assert {(target / r.path).read_text() for r in manifest.files} == {manifest.task + r.path for r in manifest.files}
    return manifest.task

def kill_at(step):
    left = step
    def hook(event, arguments):
        nonlocal left
        if event in CALLS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def forked(step):
    child = os.fork()
    if child == 0:
        kill_at(step)
        write("new")
        os._exit(0)
    return os.waitpid(child, 0)[1]

for killed in range(1, 1000):
    if earlier:
        write("old")
    elif kind == "folder" and target.exists():
        import shutil; shutil.rmtree(target)
    elif target.exists():
        target.unlink()
    status = forked(killed)
    found = read()
    assert found in (("old", "new") if earlier else (None, "new")), (killed, found)
    if os.WIFEXITED(status):
        assert found == "new" and os.WEXITSTATUS(status) == 0, (killed, status, found)
        break
    write("next")
    assert read() == "next"
    assert [p.name for p in target.parent.iterdir()] == [target.name], (killed, list(target.parent.iterdir()))
print(killed)
"""


@pytest.fixture
def in_memory(tmp_path):
    """A folder where fsync costs nothing: on a busy disk it is nine tenths of these tests, and no kill needs it."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("exchanging", [True, False])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_killed_at_every_step_it_is_the_old_or_the_new_whole(in_memory, kind, earlier, exchanging):
    if kind == "file" and not exchanging:
        pytest.skip("files are never exchanged")
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(in_memory / "out"), kind, str(earlier), str(exchanging)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > (20 if kind == "folder" else 5)  # steps that were seen


WRITER = """
import sys
from pathlib import Path
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder, write_text_atomically
target, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True); sys.stdin.readline()
for turn in range(25):
    with staged_folder(target, "deployment") as staging:
        for part in range(5):
            (staging / f"part{part}.bin").write_text(f"{name} {turn}")
        seal(staging, Manifest(kind="deployment", task="t", source=Source(name_or_path=name), recipe={}, sparsity={}))
    write_text_atomically(target.with_name("report.json"), name * 10_000)
"""


@pytest.mark.parametrize("exchanging", [True, False])
def test_writers_of_one_target_do_not_mix(in_memory, exchanging):
    target = in_memory / "out"
    without = "" if exchanging else "import sparse_deploy.publishing as p; p.exchange = lambda one, other: False\n"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", without + WRITER, str(target), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "abc"
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            seen |= {path.read_text()[0] for path in in_memory.glob("report.json")}
        assert [writer.wait() for writer in writers] == [0, 0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    manifest = load_manifest(target)
    contents = {(target / record.path).read_text() for record in manifest.files}
    assert len(contents) == 1
    assert contents.pop().split()[0] == manifest.source.name_or_path
    text = (in_memory / "report.json").read_text()
    assert text == text[0] * 10_000
    assert seen <= set("abc")
    assert sorted(path.name for path in in_memory.iterdir()) == ["out", "report.json"]


REPLACER = """
import shutil, sys
from pathlib import Path
target, old = Path(sys.argv[1]), Path(sys.argv[1] + ".old")
print("ready", flush=True)
for turn in range(100_000):
    fresh = Path(f"{target}.{turn}")
    fresh.mkdir()
    for name in ("a", "b", "c"):
        (fresh / name).touch()
    listed = '[{"path": "a"}, {"path": "b"}, {"path": "c"}]'
    (fresh / "manifest.json").write_text('{"kind": "deployment", "files": ' + listed + "}")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
"""


def test_a_folder_that_others_keep_replacing_is_never_taken_for_a_foreign_one(in_memory):
    target = in_memory / "out"
    replacer = subprocess.Popen([sys.executable, "-c", REPLACER, str(target)], stdout=subprocess.PIPE)
    try:
        assert replacer.stdout.readline() == b"ready\n"
        for _ in range(5_000):
            check_writable_target(target, "deployment")
        assert replacer.poll() is None
    finally:
        replacer.kill()
        replacer.communicate()


def make(target: Path, content: str = "old") -> None:
    with staged_folder(target, "deployment") as staging:
        (staging / "model.onnx").write_text(content)
        seal(staging, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={}))


def test_names_are_exchanged_by_the_kernel(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = tmp_path / ".out.abcd1234.partial"
    dead.mkdir()
    (dead / "model.onnx").write_text("half")
    others = [tmp_path / ".other.abcd1234.partial", tmp_path / ".out.partial", tmp_path / ".out.abcd1234.backup"]
    for other in others:
        other.mkdir()
    with staged_folder(tmp_path / "out", "deployment") as living:
        make(tmp_path / "out")
        assert living.is_dir()
        assert not dead.exists()
        seal(living, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={}))
    assert all(other.is_dir() for other in others)


def test_what_stepped_aside_comes_back_to_the_next_reader(tmp_path):
    make(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.abcd1234.retired")
    load_manifest(tmp_path / "out")
    make(tmp_path / ".out.abcd1234.retired", "older")  # beside a target it is rubbish
    clear_leftovers(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_that_appeared_at_the_target_in_the_meantime_are_not_replaced(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ConfigError, match="not replaced"), staged_folder(target, "deployment") as staging:  # noqa: PT012
        seal(staging, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={}))
        target.mkdir()
        (target / "thesis.tex").write_text("years of work")
    assert (target / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_there_are_no_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    (tmp_path / ".out.abcd1234.partial").mkdir()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    make(tmp_path / "out")
    make(tmp_path / "out", "new")
    write_bytes_atomically(tmp_path / "file", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.abcd1234.partial", "file", "out"]
    load_manifest(tmp_path / "out")


def test_a_link_with_the_name_of_a_leftover_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".out.abcd1234.partial").symlink_to(tmp_path / "precious")
    make(tmp_path / "out")
    assert (tmp_path / "precious" / "file").exists()


def test_one_writer_at_a_time(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sparse_deploy.publishing import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print('holding', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "training")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"holding\n"
            with pytest.raises(ConfigError, match="another process"), only_writer(tmp_path / "training"):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with only_writer(tmp_path / "training"):  # the kernel let go
        pass


def test_a_file_size_limit_is_an_error_and_keeps_the_old_file(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from sparse_deploy.artifacts import write_text_atomically; from sparse_deploy.errors import ArtifactError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_text_atomically(Path(sys.argv[1]), 'x' * 5000)\n"
        "except ArtifactError as error: print(error)"
    )
    path = tmp_path / "report.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "can't write" in done.stdout
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


def test_new_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_bytes_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_can_not_be_moved_keeps_the_old_one(tmp_path, monkeypatch):
    make(tmp_path / "out")
    rename = Path.rename

    def fail_for_staging(self, target):
        if self.suffix == ".partial":
            number = errno.ENOTEMPTY if Path(target).is_dir() else errno.EIO
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    monkeypatch.setattr(publishing, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fail_for_staging)
    with pytest.raises(ArtifactError, match="can't write"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
