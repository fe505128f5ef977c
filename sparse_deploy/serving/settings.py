# SPDX-License-Identifier: Apache-2.0
"""Settings of a server: address, model, runtime, and limits per client."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sparse_deploy.bounds import MAX_BATCH, MAX_THREADS

RuntimeChoice = Literal["auto", "sparse", "openvino-sparse", "openvino", "onnxruntime"]
Precision = Literal["int8", "fp32"]
LogFormat = Literal["json", "text"]
MAX_DELAY_MS = 10_000
# Name of a model in URLs.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class ServerSettings(BaseModel):
    """Settings of one server process.

    Attributes:
        deployment: folder that ``sparse-deploy export`` wrote.
        name: name of the model in URLs; None means the recipe's name.
        runtime: ``auto`` measures all candidates of the folder and this machine, and selects the fastest.
        precision: None means INT8 if the folder has it.
        threads: threads of one batch; None means the container's CPU quota.
        max_batch: largest number of sequences in a batch (each window of a question is one).
        max_delay_ms: batching delay: how long an idle server waits for a second sequence.
        queue: largest number of queued sequences; the next request is refused with 503.
        timeout_ms: time limit from the first byte of a request to its response; 504 after it.
        body_timeout_ms: time limit for the body of a request; 408 after it.
        header_timeout_ms: time limit for request line and headers, and longest idle time of a connection.
        write_timeout_ms: time in which a client reads nothing of its response; then the connection is closed.
        drain_seconds: after SIGTERM, time in which requests are still accepted while readiness is false.
        shutdown_seconds: after that, time to finish accepted requests.
        max_body_bytes: largest request.
        max_rows: largest number of texts or tensor rows in one request.
        max_characters: largest number of characters in the texts of one request.
        max_connections: largest number of open connections; beyond it only probes are answered.
        token: required value of ``Authorization: Bearer``, except for health and metrics; None: no token.
        access_log: one line per request.
        verify_key: public key whose owner must have signed the deployment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: Path
    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    runtime: RuntimeChoice = "auto"
    precision: Precision | None = None
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    max_batch: int = Field(default=32, ge=1, le=MAX_BATCH)
    max_delay_ms: float = Field(default=0.0, ge=0, le=MAX_DELAY_MS)
    queue: int = Field(default=512, ge=1, le=1_000_000)
    timeout_ms: int = Field(default=10_000, ge=1, le=3_600_000)
    body_timeout_ms: int = Field(default=10_000, ge=1, le=3_600_000)
    header_timeout_ms: int = Field(default=10_000, ge=1, le=3_600_000)
    write_timeout_ms: int = Field(default=10_000, ge=1000, le=3_600_000)
    drain_seconds: float = Field(default=2.0, ge=0, le=3600)
    shutdown_seconds: int = Field(default=20, ge=1, le=3600)
    max_body_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**30)
    max_rows: int = Field(default=256, ge=1, le=100_000)
    max_characters: int = Field(default=500_000, ge=1, le=2**30)
    max_connections: int = Field(default=2048, ge=1, le=1_000_000)
    token: SecretStr | None = Field(default=None, min_length=1)
    log_format: LogFormat = "json"
    access_log: bool = False
    verify_key: Path | None = None
