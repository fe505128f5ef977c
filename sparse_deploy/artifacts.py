# SPDX-License-Identifier: Apache-2.0
"""Artifact folders: written atomically, described by a manifest that is written last.

A folder without ``manifest.json`` is unfinished. The manifest lists every file with its SHA-256 and has the
sparsity record of every model file, the resolved recipe and the versions that made it.
"""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparse_deploy.artifact_target import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FolderKind,
    check_writable_target,
)
from sparse_deploy.errors import ArtifactError, ConfigError, one_line
from sparse_deploy.file_records import FileRecord, check_listing, record_files, verify_files
from sparse_deploy.publishing import clear_leftovers, publish, staging_beside, write_bytes_atomically, write_error
from sparse_deploy.sparsity.statistics import SparsityRecord
from sparse_deploy.strict_json import load_json_object, read_bounded

SCHEMA_VERSION: Final = 1
_VERSIONED_PACKAGES = (
    "sparse-deploy", "torch", "transformers", "datasets", "optimum", "onnx", "onnxscript", "onnxruntime", "openvino",
    "neural-compressor", "numpy",
)  # fmt: skip

MAX_JSON_BYTES = 256 * 2**20

ArtifactKind = Literal["checkpoint", "deployment"]
Content = TypeVar("Content", bound=BaseModel)


class Source(BaseModel):
    """The origin of an artifact's model.

    Attributes:
        name_or_path: name or path given by the user.
        revision: resolved commit on the hub; None for local folders and packages.
        weights_sha256: fingerprint of the source's weight files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name_or_path: str
    revision: str | None = None
    weights_sha256: str = ""


class Manifest(BaseModel):
    """The content of ``manifest.json``.

    Attributes:
        sparsity: a record per model file of the folder, by relative path.
        recipe: the recipe with all defaults and overrides resolved.
        details: figures of the stage that made the folder (metrics, parity, calibration).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: ArtifactKind
    task: str
    source: Source
    recipe: dict[str, Any]
    sparsity: dict[str, SparsityRecord]
    details: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileRecord, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    created: str = ""


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that affect an artifact."""
    versions = {}
    for package in _VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@contextlib.contextmanager
def staged_folder(target: Path, kind: FolderKind, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Make a staging folder next to ``target`` that is renamed to ``target`` only if the block succeeds.

    The block must call :func:`seal` last. On any error, and on Ctrl-C, the staging folder is removed and ``target``
    is as it was. An earlier artifact at ``target`` is replaced.

    Args:
        target: the new folder.
        kind: kind of the artifact.
        sources: input folders of the command; see :func:`check_writable_target`.

    Raises:
        ConfigError: ``target`` is not an earlier artifact of this kind.
        ArtifactError: disk full, no permission, or the block did not seal the folder.
    """
    check_writable_target(target, kind, sources)
    try:
        with staging_beside(target) as staging:
            yield staging
            if not (staging / MANIFEST_NAME).is_file():
                raise ArtifactError(f"{target}: the stage ended without a manifest; nothing was written")
            check_writable_target(target, kind, sources)  # hours may have passed
            publish(staging, target)
    except OSError as error:
        raise write_error(target, error) from error


def seal(staging: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a staged folder, with hashes of all files; the files are synced to disk first.

    Returns:
        The written manifest, including files, versions and time.
    """
    whole = manifest.model_copy(
        update={
            "files": record_files(staging),
            "versions": package_versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    write_text_atomically(staging / MANIFEST_NAME, whole.model_dump_json(indent=1) + "\n")
    return whole


def load_manifest(folder: Path, kind: ArtifactKind | None = None, *, verify: bool = True) -> Manifest:
    """Read and check the manifest of an artifact folder.

    Args:
        folder: the artifact.
        kind: expected kind; default: any kind.
        verify: also compare size and SHA-256 of every file, and refuse unlisted files and links (a checkpoint may have
            links, as the hub's cache uses them).

    Raises:
        ConfigError: no such folder.
        ArtifactError: the artifact is unfinished, of another kind, or altered.
    """
    if not folder.is_dir():
        clear_leftovers(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder. Expected {_what(kind)}.")
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(f"{folder}: no {MANIFEST_NAME}, so this is not a finished artifact. {_how(kind)}")
    try:
        data = read_bounded(path, MAX_MANIFEST_BYTES)
        load_json_object(data)  # pydantic's parser takes the last of two equal keys
        manifest = Manifest.model_validate_json(data)
    except (ValueError, OSError) as error:  # pydantic's error is a ValueError
        reason = one_line(error)
        raise ArtifactError(f"{path}: not a readable manifest: {reason}. {_how(kind)}") from error
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder}: expected {_what(kind)}, found a {manifest.kind}. {_how(kind)}")
    check_listing(folder, manifest.files)
    if verify:
        verify_files(folder, manifest.files, unlisted=MANIFEST_NAME, links=manifest.kind == "checkpoint")
    return manifest


def read_json_file(path: Path, content: type[Content], what: str, how: str) -> Content:
    """Read a JSON file that this package wrote.

    Args:
        path: the file.
        content: type of the content.
        what: name of the file type in messages, such as ``report``.
        how: a sentence with the command that makes such a file.

    Raises:
        ArtifactError: the file is missing, larger than 256 MiB, not JSON, or not of this type.
    """
    try:
        return content.model_validate_json(read_bounded(path, MAX_JSON_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path}: can't read the {what}: {error.strerror}. {how}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "file"
        raise ArtifactError(f"{path}: not a readable {what}: {place}: {problem['msg']}. {how}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: expected a {what} of at most {MAX_JSON_BYTES} bytes; this is larger") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old or the new content.

    Raises:
        ArtifactError: disk full, no permission.
    """
    try:
        write_bytes_atomically(path, text.encode())
    except OSError as error:
        raise write_error(path, error) from error


def write_json_atomically(path: Path, data: Any) -> None:
    """Write JSON as :func:`write_text_atomically` writes text."""
    write_text_atomically(path, json.dumps(data, indent=1, sort_keys=False) + "\n")


def _what(kind: ArtifactKind | None) -> str:
    return f"a {kind} folder" if kind else "an artifact folder"


def _how(kind: ArtifactKind | None) -> str:
    if kind == "deployment":
        return "Make a deployment with: sparse-deploy export CHECKPOINT -c RECIPE"
    return "Make a checkpoint with: sparse-deploy finetune -c RECIPE"
