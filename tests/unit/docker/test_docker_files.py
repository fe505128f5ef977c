# SPDX-License-Identifier: Apache-2.0
"""Rules that images, compose file and Kubernetes example must keep; tools/build_images.sh builds and starts them."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SERVERS = ("serve", "serve-openvino")
TARGETS = (*SERVERS, "toolchain")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage name, each with the stage it builds on as first entry; continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            source, _, name = rest.partition(" AS ")
            found[name] = []
            rest = source
        found[name].append((instruction, " ".join(rest.split())))
    return found


def instructions(target: str) -> list[tuple[str, str]]:
    """All instructions of an image, those of the stages below it first."""
    known = stages()
    base = known[target][0][1]
    return [*(instructions(base) if base in known else []), *known[target]]


def last(target: str, instruction: str) -> str:
    return [rest for found, rest in instructions(target) if found == instruction][-1]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_image_runs_as_a_numeric_user_without_rights(target):
    user, group = last(target, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_entry_point_and_arguments_are_in_exec_form(target):
    assert json.loads(last(target, "ENTRYPOINT")) == ["/opt/venv/bin/sparse-deploy"]
    assert isinstance(json.loads(last(target, "CMD")), list)
    assert last(target, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("server", SERVERS)
def test_the_health_check_asks_for_readiness_with_the_python_of_the_image(server):
    options, _, command = last(server, "HEALTHCHECK").partition(" CMD ")
    program, *_, code = json.loads(command)
    assert program == "/opt/venv/bin/python"
    assert "/v2/health/ready" in code
    assert all(option in options for option in ("--interval", "--timeout", "--start-period", "--retries"))
    compile(code, "HEALTHCHECK", "exec")


def test_an_image_copies_its_environment_and_nothing_else(target):
    own = [rest for found, rest in instructions(target) if found in ("COPY", "ADD", "RUN")]
    assert [re.sub(r"--from=\S+", "--from=", rest) for rest in own] == ["--from= /opt/venv /opt/venv"]


def test_every_installation_is_locked_by_hashes_or_has_no_index():
    commands = [
        command
        for found in stages().values()
        for instruction, rest in found
        if instruction == "RUN"
        for command in rest.split(";")
        if re.search(r"\bpip\S*( --python \S+)? (install|wheel)\b", command)
    ]
    assert commands
    for command in commands:
        assert ("--require-hashes" in command and "--only-binary :all:" in command) or "--no-index" in command, command


def test_every_label_of_the_open_container_initiative_is_set(target):
    labels = " ".join(rest for found, rest in instructions(target) if found == "LABEL")
    for key in ("title", "description", "licenses", "version", "revision", "source"):
        assert f"org.opencontainers.image.{key}=" in labels


def test_the_base_is_a_python_that_the_package_supports():
    """By tag, without a digest: docs/containers.md."""
    (default,) = (rest for found, rest in stages()[""] if found == "ARG" and rest.startswith("BASE_IMAGE="))
    found = re.fullmatch(r"BASE_IMAGE=\S*python:(\d+)\.(\d+)-slim-\w+", default)
    assert found, default
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert (int(found[1]), int(found[2])) >= tuple(int(part) for part in needed.removeprefix(">=").split(".")[:2])


def lock_check(*, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "tools" / "lock_requirements.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_locks_are_in_step_with_constraints_and_dependencies():
    assert lock_check().stderr == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("constraints.txt", "numpy==", "numpy==9", "numpy=="),
        ("pyproject.toml", '"uvloop', '"newcomer", "uvloop', "newcomer is a dependency"),
    ],
)
def test_a_lock_out_of_step_is_noticed(tmp_path, file, old, new, complaint):
    for name in ("constraints.txt", "pyproject.toml", "tools/lock_requirements.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "docker").symlink_to(ROOT / "docker")
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(old, new, 1))
    done = lock_check(root=tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_every_locked_package_has_a_hash():
    for path in (ROOT / "docker").glob("requirements-*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines, path
        for pin, digest in zip(lines[::2], lines[1::2], strict=True):
            assert re.fullmatch(r"\S+==\S+ \\", pin), pin
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", digest), pin


def test_no_server_installs_torch():
    for server in SERVERS:
        text = (ROOT / "docker" / f"requirements-{server}.txt").read_text()
        assert not re.search(r"(?m)^(torch|transformers|onnx|datasets)==", text)


def test_every_image_can_verify_signatures(target):
    assert "\nmodel-signing==" in (ROOT / "docker" / f"requirements-{target}.txt").read_text()


def test_the_build_sees_only_what_it_copies():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        source.removesuffix("/")
        for found in stages().values()
        for instruction, rest in found
        if instruction == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert {re.sub(r"requirements-\S+", "requirements-*.txt", source) for source in copied} == allowed


def drain_seconds(variables: dict[str, str]) -> float:
    """How long the server may take to end, from its own defaults."""
    import inspect

    from sparse_deploy.cli.serve import serve_command

    parameters = inspect.signature(serve_command).parameters
    drain = variables.get("SPARSE_DEPLOY_DRAIN_SECONDS", parameters["drain_seconds"].default)
    return float(drain) + float(parameters["shutdown_seconds"].default)


def test_compose_locks_the_server_in_and_waits_for_its_end():
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["serve"]
    assert service["build"]["target"] in SERVERS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(limit in service for limit in ("cpus", "mem_limit", "pids_limit"))
    assert service["volumes"][0]["read_only"] is True
    assert float(service["stop_grace_period"].removesuffix("s")) > drain_seconds({})
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:")


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, dict]:
    documents = yaml.safe_load_all((ROOT / "examples" / "kubernetes" / "deployment.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_kubernetes_example_has_three_probes_and_equal_limits(kubernetes):
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    for probe, state in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert container[probe]["httpGet"]["path"] == f"/v2/health/{state}"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_the_kubernetes_example_locks_the_server_in(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/model"]["readOnly"] is True
    (scratch,) = (volume for volume in pod["volumes"] if volume["name"] == mounts["/tmp"]["name"])
    assert scratch["emptyDir"]["sizeLimit"]


def test_the_kubernetes_example_gives_the_server_time_to_end(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert pod["terminationGracePeriodSeconds"] > drain_seconds(variables)


def test_the_service_finds_the_pods(kubernetes):
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service = kubernetes["Service"]["spec"]
    assert service["selector"].items() <= labels.items()
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert service["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}
