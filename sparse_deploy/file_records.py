# SPDX-License-Identifier: Apache-2.0
"""The files of an artifact: listed in the manifest with size and SHA-256, compared with the list when it is read.

Hard links are allowed: container layers, deduplicating file systems and ``cp -al`` make them, a reader can't
distinguish the names of one file, and the complete content is compared. Symbolic links inside a deployment are refused:
export never writes them, and the target of a link can change without a write to the folder.
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
# Files that users and tools add to a folder; this package never opens them.
_FOR_PEOPLE = frozenset({".md", ".rst"})
# The signature of all files including the manifest, so it can't be listed (sparse_deploy/signing.py).
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
    """List all files of a folder except hidden ones, after syncing them to disk."""
    records = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder))):
        path.chmod(0o644)  # safetensors and tempfile write 0600; a container runs as another user
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        name = path.relative_to(folder).as_posix()
        records.append(FileRecord(path=name, bytes=path.stat().st_size, sha256=file_sha256(path)))
    return tuple(records)


def check_listing(folder: Path, records: Sequence[FileRecord]) -> None:
    """Check a list: plain relative paths, without duplicates, within the limits.

    Raises:
        ArtifactError: the first violation.
    """
    if len(records) > MAX_FILES:
        raise ArtifactError(f"{folder}: the manifest lists {len(records)} files, allowed are {MAX_FILES}")
    seen: set[str] = set()
    for record in records:
        path = PurePosixPath(record.path)
        shown = ascii(record.path)[:80]
        if path.is_absolute() or ".." in path.parts or "\\" in record.path or ":" in record.path:
            raise ArtifactError(f"{folder}: the manifest names {shown}, which is outside the folder")
        plain = str(path) == record.path and record.path.isprintable() and len(record.path) <= MAX_PATH_CHARACTERS
        if not plain or not path.parts or _is_hidden(path):
            raise ArtifactError(f"{folder}: the manifest names {shown}, which is not a plain path")
        # On file systems that ignore case, two listed files must not have the same name.
        if record.path.casefold() in seen:
            raise ArtifactError(f"{folder}: the manifest names {shown} twice")
        seen.add(record.path.casefold())
        if record.bytes > MAX_FILE_BYTES:
            raise ArtifactError(f"{folder}: {shown} has {record.bytes} bytes, allowed are {MAX_FILE_BYTES}")
    total = sum(record.bytes for record in records)
    if total > MAX_TOTAL_BYTES:
        raise ArtifactError(f"{folder}: the files have {total} bytes together, allowed are {MAX_TOTAL_BYTES}")


def verify_files(folder: Path, records: Sequence[FileRecord], *, unlisted: str, links: bool) -> None:
    """Compare a folder with its checked list: every file exists unaltered, and there are no other files.

    Args:
        folder: the artifact.
        records: records checked by :func:`check_listing`.
        unlisted: the file with the list, which is not in the list.
        links: allow symbolic links, as in the hub's cache.

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
    """All files in a folder, except hidden ones, as relative paths.

    Raises:
        ArtifactError: a link, a device, or too many files.
    """
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *files]:
            path = Path(place, name)
            entries += 1
            if entries > 2 * MAX_FILES:
                raise ArtifactError(f"{folder}: more than {2 * MAX_FILES} files; expected those of an artifact")
            if _is_hidden(path.relative_to(place)):
                continue
            mode = (path.stat() if links and path.exists() else path.lstat()).st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                raise ArtifactError(f"{path}: expected a regular file, found {kind}; copy the files themselves")
            yield path.relative_to(folder).as_posix()


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_for_people(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _FOR_PEOPLE or path.name in _NAMES_FOR_PEOPLE
