# SPDX-License-Identifier: Apache-2.0
"""The error handler: a line and an exit code for errors of users, a traceback for bugs."""

import os
import subprocess
import sys

import pytest

from sparse_deploy.cli import main
from sparse_deploy.errors import ExitCode


@pytest.mark.parametrize(
    "arguments", [["finetune", "-c", "minilm-demo"], ["export", ".", "-c", "minilm-demo"], ["bench", "."]]
)
def test_a_servers_installation_says_what_the_other_commands_need(arguments):
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'datasets', 'jinja2', 'onnx'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from sparse_deploy.cli.main import run\n"
        f"sys.exit(run({arguments!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert done.stderr.strip().endswith("which is not installed; run: pip install 'sparse-deploy[toolchain]'")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_module_of_another_kind_is_a_bug(monkeypatch, capsys):
    def broken(*arguments, **options):
        raise ModuleNotFoundError("No module named 'sparse_deploy.nope'", name="sparse_deploy.nope")

    monkeypatch.setattr(main, "app", broken)
    assert main.run([]) == ExitCode.BUG
    assert "this is a bug in sparse-deploy" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--full", "--json"])
def test_a_reader_that_has_enough_is_no_error(tiny_deployment, option):
    command = [sys.executable, "-m", "sparse_deploy", "inspect", str(tiny_deployment), option]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")


INTERRUPTED_IMPORT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
from sparse_deploy.__main__ import main
class Finder:
    def find_spec(self, name, *rest):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["sparse-deploy", "inspect", "."]
main()
"""


@pytest.mark.parametrize("name", ["typer", "sparse_deploy.inspection"])
def test_an_interrupt_at_any_moment_is_one_line(name):
    code = INTERRUPTED_IMPORT.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr.startswith("sparse-deploy: interrupted")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--threads=1000000"], "--threads: Input should be less than or equal to 1024; got 1000000"),
        (["serve", "--threads=17"], "--threads: found 17 threads, this machine has 1 CPU; expected at most 16"),
        (["serve", "--max-batch=1000000"], "--max-batch: Input should be less than or equal to 4096"),
        (["serve", "--queue=10000000000"], "--queue: Input should be less than or equal to 1000000"),
        (["serve", "--replicas=1000000"], "--replicas: expected 1 to 10000; got 1000000"),
        (["bench", "--threads=1000000"], "bench.threads: Input should be less than or equal to 1024; found 1000000"),
        (["bench", "--threads=17"], "bench.threads: found 17 threads, this machine has 1 CPU"),
        (["bench", "--set=bench.throughput_batch_size=1000000"], "bench.throughput_batch_size: Input should be less"),
        (["bench", "--shape=1000000x8"], "bench.shapes: expected batch x tokens of 1x1 to 4096x128"),
        (["repository", "--server=ovms", "--output=out", "--threads=1000000"], "value for '--threads'"),
        (["repository", "--server=triton", "--output=out", "--max-batch=10000000000"], "value for '--max-batch'"),
        (["repository", "--server=triton", "--output=out", "--max-delay-ms=inf"], "value for '--max-delay-ms'"),
        (["repository", "--server=kserve", "--output=out", "--cpus=1000000"], "value for '--cpus'"),
    ],
)
def test_too_large_a_count_is_refused_before_anything_is_opened(tiny_deployment, monkeypatch, capsys, arguments, named):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    command, *options = arguments
    assert main.run([command, str(tiny_deployment), *options]) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_words_of_a_hostile_file_do_not_move_the_cursor(capsys):
    assert main.run(["inspect", "no\x1b[2J\x9b1mwhere"]) == ExitCode.USAGE
    assert capsys.readouterr().err.strip().isprintable()
