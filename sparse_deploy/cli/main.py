# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy``: the commands, and the conversion of errors to a message and an exit code."""

import logging
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, NoReturn

import typer

from sparse_deploy import __version__
from sparse_deploy.cli.bench import bench_command
from sparse_deploy.cli.demo import demo_command
from sparse_deploy.cli.export import export_command
from sparse_deploy.cli.finetune import finetune_command
from sparse_deploy.cli.inspect import inspect_command
from sparse_deploy.cli.prune import prune_command
from sparse_deploy.cli.recipe import recipe_command
from sparse_deploy.cli.repository import repository_command
from sparse_deploy.cli.serve import serve_command
from sparse_deploy.cli.sweep import sweep_command
from sparse_deploy.errors import ExitCode, SparseDeployError

# Typer 0.29 contains a copy of click, earlier versions use the package: the base class of a public name fits both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Packages that warn at import about GPU kernels and PyTorch internals, which is irrelevant for users here.
_NOISY_LOGGERS = ("torchao", "torch.utils._pytree")

# Packages of the extra `toolchain` that commands import; the base installation is for servers.
_TOOLCHAIN = frozenset({
    "accelerate", "datasets", "fsspec", "jinja2", "matplotlib", "neural_compressor", "onnx", "onnx_ir", "onnxscript",
    "optimum", "safetensors", "scipy", "sklearn", "torch", "torchmetrics", "transformers",
})  # fmt: skip

_INTERRUPTED = "interrupted; no partial files were left. An interrupted finetune resumes with the same command."

app = typer.Typer(
    name="sparse-deploy",
    help="Sparse, quantized BERT-family models for CPU servers: pruning, export, accuracy gates, serving.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("finetune")(finetune_command)
app.command("prune")(prune_command)
app.command("export")(export_command)
app.command("bench")(bench_command)
app.command("inspect")(inspect_command)
app.command("serve")(serve_command)
app.command("recipe")(recipe_command)
app.command("repository")(repository_command)
app.command("sweep")(sweep_command)
app.command("demo")(demo_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparse-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Sparse, quantized BERT-family models for CPU servers: pruning, export, accuracy gates, serving."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def main() -> NoReturn:
    """Run the command line and exit with the documented exit code."""
    # Disable warnings of tokenizers about forks, and progress output of the hub.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for number in (signal.SIGTERM, signal.SIGHUP):  # clean up staging folders and workers as on Ctrl-C
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)
    sys.exit(int(run(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """Run one command and map its exceptions to an exit code.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code (see :class:`sparse_deploy.errors.ExitCode`).
    """
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        _say(error.format_message())  # type: ignore[attr-defined]
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        _say(_INTERRUPTED)
        return ExitCode.INTERRUPTED
    except SparseDeployError as error:
        _say(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _TOOLCHAIN:
            return _report_bug(error)
        _say(f"this command needs {package}, which is not installed; run: pip install 'sparse-deploy[toolchain]'")
        return ExitCode.USAGE
    except BrokenPipeError:
        return _end_without_reader()
    except SystemExit as end:
        if end.code == 1:  # typer and rich exit with 1 if the output's reader has closed the pipe; no other code does
            return _end_without_reader()
        return end.code if isinstance(end.code, int) else ExitCode.BUG
    except Exception as error:
        return _report_bug(error)
    if code == ExitCode.INTERRUPTED:  # newer versions of typer return the code instead of raising
        _say(_INTERRUPTED)
    return code if isinstance(code, int) else ExitCode.OK


def _end_without_reader() -> ExitCode:
    """Handle a closed output pipe (`| head`), which is not an error; prevents a second message at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return ExitCode.OK


def _report_bug(error: Exception) -> ExitCode:
    traceback.print_exception(error)
    _say(f"this is a bug in sparse-deploy {__version__} ({type(error).__name__}); please report it with the trace")
    return ExitCode.BUG


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(message: str) -> None:
    line = " ".join(message.split())
    # Names from hostile files may contain control sequences.
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    typer.echo(f"sparse-deploy: {shown}", err=True)
