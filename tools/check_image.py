# SPDX-License-Identifier: Apache-2.0
"""Start an image without a Docker engine and check its content, its server, and the shutdown.

The container is made from namespaces, as an engine does it: the entry point is process 1 of a new PID and network
namespace, user and environment are those of the image, the root is read-only with a tmpfs on /tmp, there are no
capabilities, and the deployment is mounted read-only. tools/build_images.sh calls this script; it runs as root.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Size beyond the base image; the limits detect growth of the images.
BUDGET_MB = {"serve": 350, "serve-openvino": 550, "toolchain": 2500}
TITLES = ("title", "description", "licenses", "version", "revision", "source")
NOT_IN_SERVERS = ("torch", "transformers", "onnx", "datasets", "pip")
OPERATORS = {
    "serve": ("kernels", "onnxruntime"),
    "serve-openvino": ("kernels", "onnxruntime", "openvino"),
    "toolchain": ("kernels", "onnxruntime", "openvino"),
}
READY_SECONDS = 60
STOP_SECONDS = 30
MODEL = "model"
_CONTAINER = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h
_MOUNTS = """
set -eu
ip link set lo up
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$ROOT/sys"
mount --bind /dev "$ROOT/dev"
mount -t tmpfs -o nosuid,nodev tmpfs "$ROOT/tmp"
if [ -n "$DEPLOYMENT" ]; then
  mount --bind "$DEPLOYMENT" "$ROOT/model"
  mount -o remount,bind,ro "$ROOT/model"
fi
mount -o remount,bind,ro "$ROOT"
exec chroot "$ROOT" "$@"
"""
_TOUCH = """
import errno
for folder in ("/opt/venv", "/model", "/tmp"):
    try:
        open(folder + "/touched", "w").close()
        print("written")
    except OSError as error:
        print("refused" if error.errno == errno.EROFS else error)
"""


@dataclass
class Checks:
    """Rows of the table, and the number of failed checks."""

    rows: list[tuple[str, bool, str]] = field(default_factory=list)

    def add(self, name: str, holds: bool, found: object) -> bool:
        """Record a check with its result; returns whether it passed."""
        self.rows.append((name, holds, str(found)))
        return holds

    def attempt(self, name: str, check: Callable[[], tuple[bool, object]]) -> bool:
        """Run and record a check that may raise: an exception is a failure."""
        try:
            return self.add(name, *check())
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            return self.add(name, False, f"{type(error).__name__}: {error}")

    def table(self) -> str:
        """The rows as aligned text."""
        width = max(len(name) for name, _, _ in self.rows)
        return "".join(f"{'ok  ' if holds else 'FAIL'} {name:<{width}}  {found}\n" for name, holds, found in self.rows)


@dataclass(frozen=True)
class Image:
    """An unpacked image and its configuration."""

    root: Path
    config: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        """Entry point and default arguments."""
        return [*self.config["Entrypoint"], *(self.config.get("Cmd") or [])]

    def inside(self, command: Sequence[str], settings: Sequence[str] = ()) -> list[str]:
        """The command with the image's user, folder and environment and no capabilities, to run inside its root."""
        user, _, group = self.config["User"].partition(":")
        return [
            "setpriv", "--reuid", user, "--regid", group or user, "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all",
            "env", "-i", "-C", self.config.get("WorkingDir") or "/", *self.config["Env"], *settings, *command,
        ]  # fmt: skip

    @contextlib.contextmanager
    def started(
        self, command: Sequence[str], deployment: Path | None = None, settings: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a command in a container; kill it at the end if it still runs."""
        process = subprocess.Popen(
            [*_CONTAINER, "sh", "-c", _MOUNTS, "sh", *self.inside(command, settings)],
            env=os.environ | {"ROOT": str(self.root), "DEPLOYMENT": str(deployment.resolve()) if deployment else ""},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def output(self, command: Sequence[str], deployment: Path | None = None) -> str:
        """The output of a command in a container; raises if the command fails."""
        with self.started(command, deployment) as process:
            text, _ = process.communicate(timeout=300)
        if process.returncode:
            raise subprocess.SubprocessError(f"exit code {process.returncode}: {text.strip()[-300:]}")
        return text.strip()


def main() -> int:
    """Check one image; returns 1 when a check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--target", required=True, choices=tuple(BUDGET_MB))
    parser.add_argument("--base", required=True, help="the base image, for the comparison")
    parser.add_argument("--deployment", required=True, type=Path)
    options = parser.parse_args()
    checks = Checks()
    with unpacked(options.base) as base, unpacked(options.image) as image:
        (image.root / "model").mkdir(exist_ok=True)  # as an engine does for a mount
        check_configuration(checks, image, options.target)
        check_files(checks, image, base, options.target)
        check_commands(checks, image, options.target, options.deployment)
        if options.target != "toolchain":
            check_server(checks, image, options.deployment)
        if options.target == "serve-openvino" and (options.deployment / "openvino_sparse.xml").is_file():
            check_server(checks, image, options.deployment, ("SPARSE_DEPLOY_RUNTIME=openvino-sparse",))
    sys.stdout.write(checks.table())
    return int(not all(holds for _, holds, _ in checks.rows))


@contextlib.contextmanager
def unpacked(name: str) -> Iterator[Image]:
    """Unpack an image into a folder, which exists during the block."""
    container = _run("buildah", "from", "--pull-never", name)
    try:
        described = json.loads(_run("buildah", "inspect", "--type", "image", name))
        yield Image(Path(_run("buildah", "mount", container)), described["Docker"]["config"])
    finally:
        _run("buildah", "rm", container)


def check_configuration(checks: Checks, image: Image, target: str) -> None:
    """Check the configuration of the image."""
    config = image.config
    user = config.get("User", "").partition(":")[0]
    checks.add("user is numeric, not root", user.isdigit() and int(user) > 0, config.get("User"))
    checks.add("entry point in exec form", config["Entrypoint"][0].startswith("/opt/"), image.command)
    checks.add("stop signal", config.get("StopSignal") == "SIGTERM", config.get("StopSignal"))
    labels = {key.rpartition(".")[2]: value for key, value in (config.get("Labels") or {}).items()}
    checks.add("labels", all(labels.get(title) for title in TITLES), f"version {labels.get('version')}")
    if target != "toolchain":
        test = config.get("Healthcheck", {}).get("Test", [])
        checks.add("health check in exec form", test[:1] == ["CMD"], test[:2])


def check_files(checks: Checks, image: Image, base: Image, target: str) -> None:
    """Check the content of the image beyond its base."""
    mega = (_bytes_of(image.root) - _bytes_of(base.root)) / 1e6
    checks.add("size beyond the base", mega < BUDGET_MB[target], f"{mega:.0f} MB of {BUDGET_MB[target]} MB")
    added = _setuid_files(image.root) - _setuid_files(base.root)
    checks.add("no setuid file added", not added, sorted(added) or "none")
    (packages,) = (image.root / "opt/venv/lib").glob("python3.*/site-packages")
    if target != "toolchain":
        heavy = [name for name in NOT_IN_SERVERS if (packages / name).exists()]
        checks.add("no torch, no pip", not heavy, heavy or f"none of {', '.join(NOT_IN_SERVERS)}")
    found = {path.name for path in packages.glob("sparse_deploy/kernels/*.so")}
    wanted = {f"libsparse_deploy_{name}.so" for name in OPERATORS[target]}
    checks.add("sparse operators compiled", found == wanted, sorted(found))


def check_commands(checks: Checks, image: Image, target: str, deployment: Path) -> None:
    """Check the commands that need no server."""
    program = image.config["Entrypoint"][0]

    def version() -> tuple[bool, object]:
        text = image.output([program, "--version"])
        return text.startswith("sparse-deploy "), text

    def operators() -> tuple[bool, object]:
        text = image.output(
            [
                "/opt/venv/bin/python", "-c",
                "from sparse_deploy.kernels import loader; print(loader.instruction_set(loader.ONNXRUNTIME).name)",
            ]
        )  # fmt: skip
        return bool(text), text

    def signatures() -> tuple[bool, object]:
        text = image.output(["/opt/venv/bin/python", "-c", "import model_signing as m; print(m.__version__)"])
        return bool(text), text

    def inspect() -> tuple[bool, object]:
        found = json.loads(image.output([program, "inspect", "/model", "--json"], deployment))
        return found["kind"] == "deployment", f"{len(found['files'])} model files"

    checks.attempt("sparse-deploy --version", version)
    checks.attempt("instruction set of the operators", operators)
    checks.attempt("signatures can be verified", signatures)
    if target == "toolchain":
        checks.attempt("sparse-deploy inspect /model", inspect)


def check_server(checks: Checks, image: Image, deployment: Path, settings: Sequence[str] = ()) -> None:
    """Check the server: readiness, health, inference, isolation, and shutdown."""
    port = next(item.partition("=")[2] for item in image.config["Env"] if item.startswith("SPARSE_DEPLOY_PORT="))
    with image.started(image.command, deployment, (f"SPARSE_DEPLOY_NAME={MODEL}", *settings)) as process:
        began = time.monotonic()
        server = _first_process(process.pid)
        ready = server is not None and _wait_until_ready(process, server, f"http://127.0.0.1:{port}/v2/health/ready")
        if not checks.add("ready", ready, f"{time.monotonic() - began:.1f} s after the start") or server is None:
            process.kill()
            checks.add("output of the server", False, " ".join((process.communicate()[0] or "nothing").split())[-600:])
            return
        url = f"http://127.0.0.1:{port}/v2"
        checks.attempt("live", lambda: (_get(server, f"{url}/health/live")[0] == 200, "200"))
        checks.attempt("infer over HTTP", lambda: _infer(server, f"{url}/models/{MODEL}"))
        checks.attempt("health check command", lambda: _health(image, server))
        checks.attempt("process 1 has no capabilities", lambda: _rights(server))
        checks.attempt("root is read-only, /tmp is not", lambda: _writable(image, server))
        began = time.monotonic()
        os.kill(server, signal.SIGTERM)
        said = ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(timeout=STOP_SECONDS)
        took = time.monotonic() - began
        checks.add("SIGTERM ends it with 0", process.returncode == 0, f"exit {process.returncode} after {took:.1f} s")
        checks.attempt("selected runtime", lambda: _runtime(said))


def _infer(server: int, url: str) -> tuple[bool, object]:
    described = json.loads(_get(server, url)[1])
    names = [tensor["name"] for tensor in described["inputs"]]
    question = {"question", "context"} <= set(names)
    texts = {"question": "Who wrote it?", "context": "It was written by Ada."} if question else {"text": "a good film"}
    inputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name, text in texts.items()]
    status, body = _get(server, f"{url}/infer", json.dumps({"id": "1", "inputs": inputs}).encode())
    answer = json.loads(body)
    outputs = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    return status == 200 and answer["id"] == "1" and bool(outputs), json.dumps(outputs)[:90]


def _runtime(log: str) -> tuple[bool, object]:
    events = {entry["event"]: entry for entry in (json.loads(line) for line in log.splitlines())}
    return "stopped" in events, f"{events['serving']['runtime']}, {events['serving']['threads']} threads"


def _health(image: Image, server: int) -> tuple[bool, object]:
    done = _inside(image, server, image.config["Healthcheck"]["Test"][1:])
    return done.returncode == 0, f"exit {done.returncode} {done.stderr[-200:]}".strip()


def _rights(server: int) -> tuple[bool, object]:
    lines = Path(f"/proc/{server}/status").read_text(encoding="utf-8").splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    harmless = status["CapEff"] == ["0" * 16] and status["NoNewPrivs"] == ["1"] and "0" not in status["Uid"]
    peak = int(status["VmHWM"][0]) / 1024
    return harmless and status["NSpid"][-1] == "1", f"uid {status['Uid'][0]}, no capabilities, peak {peak:.0f} MiB"


def _writable(image: Image, server: int) -> tuple[bool, object]:
    lines = _inside(image, server, ["/opt/venv/bin/python", "-c", _TOUCH]).stdout.splitlines()
    return lines == ["refused", "refused", "written"], "image, model, /tmp: " + ", ".join(lines)


def _inside(image: Image, server: int, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    enter = ["nsenter", "--target", str(server), "--mount", "--pid", "--net", "--root", "--wd"]
    return subprocess.run([*enter, *image.inside(command)], capture_output=True, text=True, timeout=60, check=False)


def _wait_until_ready(process: subprocess.Popen[str], server: int, url: str) -> bool:
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        with contextlib.suppress(OSError):
            if _get(server, url)[0] == 200:
                return True
        time.sleep(0.1)
    return False


def _get(server: int, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request inside the private network of the container."""
    _enter_network(Path(f"/proc/{server}/ns/net"))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})  # noqa: S310 - http, by us
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _enter_network(namespace: Path) -> None:
    with namespace.open() as stream:
        if ctypes.CDLL(None, use_errno=True).setns(stream.fileno(), _NEW_NETWORK):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")


def _first_process(parent: int) -> int | None:
    for _ in range(100):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    return None


def _bytes_of(root: Path) -> int:
    return sum(status.st_size for _, status in _files(root))


def _setuid_files(root: Path) -> set[str]:
    return {name for name, status in _files(root) if status.st_mode & (stat.S_ISUID | stat.S_ISGID)}


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path.lstat()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    if missing := [name for name in ("buildah", "ip", "nsenter", "unshare") if shutil.which(name) is None]:
        sys.exit(f"check_image: {', '.join(missing)} not found; apt-get install buildah iproute2 util-linux")
    sys.exit(main())
