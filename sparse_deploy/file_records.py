# SPDX-License-Identifier: Apache-2.0
"""The files of an artifact: listed in the manifest with size and SHA-256, compared with the list when it is read.

Hard links are allowed on purpose. Container layers, deduplicating file systems and ``cp -al`` make them, a reader can't
distinguish the names of one file, and the content is compared in full. Symbolic links inside a deployment are refused:
export never writes one, and with a link the folder can change without a write to it.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from sparse_deploy.errors import ArtifactError

# A deployment has 12 files, the largest 1.4 GB (bert-large in FP32).
MAX_FILES = 1000
MAX_FILE_BYTES = 2**33
MAX_TOTAL_BYTES = 2**36
MAX_PATH_CHARACTERS = 512
# Files that users and tools add to a folder, and that this package never opens.
_FOR_PEOPLE = frozenset({".md", ".rst"})
# Over all other files, the manifest's included, so it can't be listed (sparse_deploy/signing.py).
SIGNATURE_NAME = "model.sig"
_NAMES_FOR_PEOPLE = frozenset({"LICENSE", "NOTICE", "README"})


class FileRecord(BaseModel):
    """One file of an artifact: path relative to the folder, size in bytes, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_files(folder: Path) -> tuple[FileRecord, ...]:
    """List all files of a folder but hidden ones; they reach the disk first."""
    records = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder))):
        path.chmod(0o644)  # safetensors and tempfile write 0600; a container runs as another user
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        name = path.relative_to(folder).as_posix()
        records.append(FileRecord(path=name, bytes=path.stat().st_size, sha256=file_sha256(path)))
    return tuple(records)


def check_listing(folder: Path, records: Sequence[FileRecord]) -> None:
    """Check a list by itself: plain relative paths, each once, within the limits.

    Raises:
        ArtifactError: the first that is not so.
    """
    if len(records) > MAX_FILES:
        raise ArtifactError(f"{folder}: the manifest lists {len(records)} files, allowed are {MAX_FILES}")
    seen: set[str] = set()
    for record in records:
        path = PurePosixPath(record.path)
        shown = ascii(record.path)[:80]
        if path.is_absolute() or ".." in path.parts or "\\" in record.path or ":" in record.path:
            raise ArtifactError(f"{folder}: the manifest names {shown}, which lies outside the folder")
        plain = str(path) == record.path and record.path.isprintable() and len(record.path) <= MAX_PATH_CHARACTERS
        if not plain or not path.parts or _is_hidden(path):
            raise ArtifactError(f"{folder}: the manifest names {shown}, which is no plain path")
        # Folders that ignore case must not hold two listed files under one name.
        if record.path.casefold() in seen:
            raise ArtifactError(f"{folder}: the manifest names {shown} twice")
        seen.add(record.path.casefold())
        if record.bytes > MAX_FILE_BYTES:
            raise ArtifactError(f"{folder}: {shown} has {record.bytes} bytes, allowed are {MAX_FILE_BYTES}")
    total = sum(record.bytes for record in records)
    if total > MAX_TOTAL_BYTES:
        raise ArtifactError(f"{folder}: the files have {total} bytes together, allowed are {MAX_TOTAL_BYTES}")


def verify_files(folder: Path, records: Sequence[FileRecord], *, unlisted: str, links: bool) -> None:
    """Compare a folder with its checked list: every file there and unaltered, and nothing beside them.

    Args:
        folder: the artifact.
        records: passed by :func:`check_listing`.
        unlisted: the one file that the list can't name, because it holds the list.
        links: let symbolic links through, as the hub's cache consists of them.

    Raises:
        ArtifactError: the first difference.
    """
    listed = {unlisted, SIGNATURE_NAME, *(record.path for record in records)}
    for name in _files_in(folder, links=links):
        if name not in listed and not _is_for_people(PurePosixPath(name)):
            raise ArtifactError(f"{folder}: {ascii(name)[:80]} is not in the manifest; remove it or copy again")
    for record in records:
        _verify(folder, record)


def _verify(folder: Path, record: FileRecord) -> None:
    path = folder / record.path
    if not path.is_file():
        raise ArtifactError(f"{folder}: {record.path} is in the manifest and missing from the folder; copy it again")
    if path.stat().st_size != record.bytes or file_sha256(path) != record.sha256:
        raise ArtifactError(f"{path}: the file is not the one that the manifest describes; copy or make it again")


def _files_in(folder: Path, *, links: bool) -> Iterator[str]:
    """Everything in a folder that is no folder, but hidden files; relative to it.

    Raises:
        ArtifactError: a link or a device, or too many.
    """
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *files]:
            path = Path(place, name)
            entries += 1
            if entries > 2 * MAX_FILES:
                raise ArtifactError(f"{folder}: holds more than {2 * MAX_FILES} files; expected those of an artifact")
            if _is_hidden(path.relative_to(place)):
                continue
            mode = (path.stat() if links and path.exists() else path.lstat()).st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                raise ArtifactError(f"{path}: expected a regular file, found {kind}; copy the files themselves")
            yield path.relative_to(folder).as_posix()


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_for_people(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _FOR_PEOPLE or path.name in _NAMES_FOR_PEOPLE
