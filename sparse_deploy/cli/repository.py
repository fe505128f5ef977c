# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy repository``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sparse_deploy.bounds import MAX_BATCH, MAX_THREADS
from sparse_deploy.serving.settings import MAX_DELAY_MS


def repository_command(
    deployment: Annotated[Path, typer.Argument(help="Folder that `sparse-deploy export` wrote.")],
    server: Annotated[Literal["triton", "ovms", "kserve"], typer.Option(help="The server for the repository.")],
    output: Annotated[Path, typer.Option(help="New folder; an earlier repository there is replaced.")],
    name: Annotated[str | None, typer.Option(help="Model name; default: the recipe's name.")] = None,
    precision: Annotated[
        Literal["int8", "fp32"] | None, typer.Option(help="Default: INT8 if the folder has it.")
    ] = None,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Triton: use model_sparse.onnx and copy its operator library.")
    ] = False,
    mount: Annotated[str, typer.Option(help="Triton with --sparse: path of the folder for the server.")] = "/models",
    max_batch: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH, help="Triton: largest number of sequences in a batch.")
    ] = 32,
    max_delay_ms: Annotated[
        float,
        typer.Option(min=0.0, max=MAX_DELAY_MS, help="Triton: batching delay."),
    ] = 0.0,
    threads: Annotated[
        int, typer.Option(min=0, max=MAX_THREADS, help="Threads of one batch; 0: the default of the runtime.")
    ] = 0,
    storage_uri: Annotated[
        str | None, typer.Option(help="KServe: location of the deployment; default: pvc://models/NAME.")
    ] = None,
    image: Annotated[
        str, typer.Option(help="KServe: name of the image `serve` for the cluster.")
    ] = "sparse-deploy:serve",
    cpus: Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="KServe: requested CPUs.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON on standard output.")] = False,
) -> None:
    """Write a model repository for Triton, OpenVINO Model Server or KServe: model files and configuration.

    Triton and OVMS take tensors, so their clients tokenize. KServe runs the image of `sparse-deploy serve`, which takes
    text, or Triton.
    """
    from sparse_deploy.stages.model_repository import RepositoryOptions, write_model_repository

    options = RepositoryOptions(
        server=server,
        name=name,
        precision=precision,
        sparse=sparse,
        mount=mount,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        threads=threads,
        storage_uri=storage_uri,
        image=image,
        cpus=cpus,
    )
    manifest = write_model_repository(deployment, output, options)
    if manifest.needs_vnni:
        typer.echo(
            "sparse-deploy: warning: these INT8 weights saturate on CPUs without VNNI, where the server would give "
            "wrong results; export again with quantization.target_cpu any for such CPUs",
            err=True,
        )
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    for record in manifest.files:
        typer.echo(f"{output / record.path}  {record.bytes} bytes")
