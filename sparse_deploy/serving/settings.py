# SPDX-License-Identifier: Apache-2.0
"""What a server is told: where it listens, what it runs, and what one client may ask of it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sparse_deploy.bounds import MAX_BATCH, MAX_THREADS

RuntimeChoice = Literal["auto", "sparse", "openvino-sparse", "openvino", "onnxruntime"]
Precision = Literal["int8", "fp32"]
LogFormat = Literal["json", "text"]
MAX_DELAY_MS = 10_000
# Of a model in URLs.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class ServerSettings(BaseModel):
    """Settings of one server process.

    Attributes:
        deployment: folder that ``sparse-deploy export`` wrote.
        name: of the model in URLs; the recipe's name when None.
        runtime: ``auto`` measures what the folder and this machine offer, and takes the fastest.
        precision: None takes INT8 where the folder has it.
        threads: of one batch; the container's CPU quota when None.
        max_batch: sequences that are computed together (a question's windows count one each).
        max_delay_ms: how long a lone sequence waits for company while the model is idle.
        queue: sequences that may wait; the next request is refused with 503.
        timeout_ms: from the first byte of a request to its answer; 504 after it.
        body_timeout_ms: for a client to send its body; 408 after it.
        header_timeout_ms: for a client to send a request line and headers, and longest idle time of a connection.
        write_timeout_ms: that an answer may lie without the client reading any of it; then the connection is cut.
        drain_seconds: after SIGTERM, how long new requests are still taken while readiness says no.
        shutdown_seconds: after that, how long accepted requests may take.
        max_body_bytes: largest request.
        max_rows: texts or tensor rows in one request.
        max_characters: in the texts of one request.
        max_connections: open at a time; beyond them only probes are answered.
        token: what ``Authorization: Bearer`` must carry, except for health and metrics; None asks for nothing.
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
