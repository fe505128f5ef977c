# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy serve``."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_deploy.bounds import MAX_REPLICAS
from sparse_deploy.serving.settings import LogFormat, Precision, RuntimeChoice, ServerSettings

_ENV = "SPARSE_DEPLOY_"
_TOKEN_VARIABLE = f"{_ENV}TOKEN_FILE"
_KEY_VARIABLE = f"{_ENV}VERIFY_KEY"
_MAX_TOKEN_BYTES = 65_536
_DEFAULTS = ServerSettings.model_construct()


def _option(*names: str, help: str) -> Any:  # noqa: A002 - typer's word
    """An option that an environment variable can set, too, as is usual for containers."""
    return typer.Option(*names, envvar=_ENV + names[0].lstrip("-").replace("-", "_").upper(), help=help)


def serve_command(
    deployment: Annotated[
        Path, typer.Argument(envvar=f"{_ENV}DEPLOYMENT", help="Folder that `sparse-deploy export` wrote.")
    ],
    host: Annotated[str, _option("--host", help="Address to listen on; 0.0.0.0 for all.")] = _DEFAULTS.host,
    port: Annotated[int, _option("--port", help="0 selects a free port, which is in the log.")] = _DEFAULTS.port,
    name: Annotated[str | None, _option("--name", help="Model name in URLs; default: the recipe's name.")] = None,
    runtime: Annotated[
        RuntimeChoice,
        _option(
            "--runtime",
            help="auto measures the installed runtimes that have a file in the folder, and selects the fastest.",
        ),
    ] = _DEFAULTS.runtime,
    precision: Annotated[Precision | None, _option("--precision", help="Default: INT8 if the folder has it.")] = None,
    threads: Annotated[
        int | None, _option("--threads", help="Threads of one batch; default: the container's CPU quota.")
    ] = None,
    max_batch: Annotated[
        int, _option("--max-batch", help="Largest number of sequences in a batch.")
    ] = _DEFAULTS.max_batch,
    max_delay_ms: Annotated[
        float, _option("--max-delay-ms", help="Batching delay: how long an idle server waits for a second sequence.")
    ] = _DEFAULTS.max_delay_ms,
    queue: Annotated[
        int, _option("--queue", help="Largest number of queued sequences; then 503 with Retry-After.")
    ] = _DEFAULTS.queue,
    timeout_ms: Annotated[
        int, _option("--timeout-ms", help="Longest time until the response; then 504.")
    ] = _DEFAULTS.timeout_ms,
    header_timeout_ms: Annotated[
        int,
        _option(
            "--header-timeout-ms", help="Longest time for the headers of a request; then the connection is closed."
        ),
    ] = _DEFAULTS.header_timeout_ms,
    body_timeout_ms: Annotated[
        int, _option("--body-timeout-ms", help="Longest time for the body of a request; then 408.")
    ] = _DEFAULTS.body_timeout_ms,
    write_timeout_ms: Annotated[
        int,
        _option(
            "--write-timeout-ms",
            help="Longest time in which a client reads nothing of its response; then the connection is closed.",
        ),
    ] = _DEFAULTS.write_timeout_ms,
    drain_seconds: Annotated[
        float,
        _option(
            "--drain-seconds", help="After SIGTERM: time in which requests are still served while readiness is false."
        ),
    ] = _DEFAULTS.drain_seconds,
    shutdown_seconds: Annotated[
        int, _option("--shutdown-seconds", help="After that: longest time to finish accepted requests; then 503.")
    ] = _DEFAULTS.shutdown_seconds,
    max_body_bytes: Annotated[
        int, _option("--max-body-bytes", help="Largest request; then 413.")
    ] = _DEFAULTS.max_body_bytes,
    max_rows: Annotated[
        int, _option("--max-rows", help="Texts or windows in one request; then 413.")
    ] = _DEFAULTS.max_rows,
    max_characters: Annotated[
        int, _option("--max-characters", help="Characters in the texts of one request; then 413.")
    ] = _DEFAULTS.max_characters,
    max_connections: Annotated[
        int, _option("--max-connections", help="Open connections at a time; then 503, except for probes.")
    ] = _DEFAULTS.max_connections,
    token_file: Annotated[
        Path | None,
        _option("--token-file", help="File with the required token of `Authorization: Bearer`."),
    ] = None,
    verify_key: Annotated[
        Path | None,
        _option("--verify-key", help="Public key of the signature that the deployment must have (`export --sign`)."),
    ] = None,
    log_format: Annotated[LogFormat, _option("--log-format", help="Form of the log lines.")] = _DEFAULTS.log_format,
    access_log: Annotated[bool, _option("--access-log", help="One log line per request.")] = _DEFAULTS.access_log,
    replicas: Annotated[
        int | None,
        _option(
            "--replicas", help="Number of servers with one port, by Ray Serve, with --threads each; see docs/ray.md."
        ),
    ] = None,
) -> None:
    """Serve a deployment over HTTP: Open Inference Protocol v2, text or tensors in, dynamic batching, metrics.

    POST /v2/models/NAME/infer, GET /v2/health/ready, /metrics, /openapi.json. After SIGTERM the server finishes all
    accepted requests. Before it listens, it verifies the deployment and opens each candidate in a child process.
    """
    from pydantic import ValidationError

    from sparse_deploy.errors import ConfigError

    try:
        settings = ServerSettings(
            deployment=deployment,
            name=name,
            host=host,
            port=port,
            runtime=runtime,
            precision=precision,
            threads=threads,
            max_batch=max_batch,
            max_delay_ms=max_delay_ms,
            queue=queue,
            timeout_ms=timeout_ms,
            header_timeout_ms=header_timeout_ms,
            body_timeout_ms=body_timeout_ms,
            write_timeout_ms=write_timeout_ms,
            drain_seconds=drain_seconds,
            shutdown_seconds=shutdown_seconds,
            max_body_bytes=max_body_bytes,
            max_rows=max_rows,
            max_characters=max_characters,
            max_connections=max_connections,
            token=_token(token_file),
            log_format=log_format,
            access_log=access_log,
            verify_key=_verify_key(verify_key),
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option}: {problem['msg']}; got {problem['input']!r}") from error

    if replicas is not None:
        from sparse_deploy.serving.ray_serve import serve_replicas

        if not 1 <= replicas <= MAX_REPLICAS:
            raise ConfigError(f"--replicas: expected 1 to {MAX_REPLICAS}; got {replicas}")
        serve_replicas(settings, replicas)
        return
    from sparse_deploy.serving.server import serve

    serve(settings)


def _verify_key(path: Path | None) -> Path | None:
    from sparse_deploy.errors import ConfigError

    if path is None and os.environ.get(_KEY_VARIABLE) == "":  # as for the token
        raise ConfigError(f"{_KEY_VARIABLE}: expected a file with a public key, found nothing; unset it for no check")
    return path


def _token(path: Path | None) -> Any:
    from pydantic import SecretStr

    from sparse_deploy.errors import ConfigError
    from sparse_deploy.strict_json import read_bounded

    if path is None:
        if os.environ.get(_TOKEN_VARIABLE) == "":  # an empty value of a template must not disable the token
            raise ConfigError(f"{_TOKEN_VARIABLE}: expected a file with a token, found nothing; unset it for no token")
        return None
    try:
        token = read_bounded(path, _MAX_TOKEN_BYTES).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: can't read the token: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"{path}: expected a token of printable characters without spaces, found none")
    return SecretStr(token)
