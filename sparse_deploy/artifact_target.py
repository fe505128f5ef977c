# SPDX-License-Identifier: Apache-2.0
"""Checks of an artifact's target: a new folder, or an earlier artifact of its kind without other files."""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sparse_deploy.errors import ConfigError
from sparse_deploy.file_records import SIGNATURE_NAME
from sparse_deploy.publishing import write_error
from sparse_deploy.strict_json import load_json_object

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20  # bert-large's has 0.2 MB
FolderKind = Literal["checkpoint", "deployment", "model-repository"]


def check_writable_target(target: Path, kind: FolderKind, sources: Sequence[Path] = ()) -> None:
    """Refuse early to replace anything except an earlier artifact of the same kind without other files.

    Args:
        target: the new folder.
        kind: kind of the new artifact.
        sources: folders from which it is made.

    Raises:
        ConfigError: ``target`` is neither empty nor such an artifact, or overlaps a source.
        ArtifactError: ``target`` can't be read.
    """
    for source in sources:
        _check_apart(target, source)
    while True:
        try:
            found = _look_into(target)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or not os.path.lexists(target):
                raise write_error(target, error) from error
            raise ConfigError(
                f"{target}: expected a folder to write to, found a file or link. Choose another --output."
            ) from error
        reason = found.reason_to_keep(kind)
        if reason is None:
            return
        if found.still_there:
            raise ConfigError(f"{target}: {reason}, so it is not replaced. Choose another --output or empty it.")


def check_outside(target: Path, artifact: Path, option: str) -> None:
    """Refuse to write into an artifact, because its manifest would become invalid.

    Args:
        target: the new folder or file.
        artifact: a folder that is read; without a manifest, writing into it is allowed.
        option: name of the option with the target.

    Raises:
        ConfigError: the target is the artifact or inside it.
    """
    one, other = target.resolve(), artifact.resolve()
    if one == other or (other in one.parents and (other / MANIFEST_NAME).is_file()):
        raise ConfigError(f"{option} {target}: expected a place outside of {artifact}, which is read; choose another")


def _check_apart(target: Path, source: Path) -> None:
    check_outside(target, source, "--output")
    if target.resolve() in source.resolve().parents:
        raise ConfigError(f"--output {target}: expected a place outside of {source}, which is read; choose another")


@dataclass(frozen=True)
class _Content:
    """The content of a folder.

    Attributes:
        files: relative paths of all entries except folders.
        manifest: the start of ``manifest.json``; None without one.
        still_there: whether the folder is still at its path; another writer may have replaced and removed it.
    """

    files: frozenset[str]
    manifest: bytes | None
    still_there: bool

    def reason_to_keep(self, kind: FolderKind) -> str | None:
        """The reason why the folder must not be replaced by an artifact; None if it may be."""
        if not self.files:
            return None
        if self.manifest is None:
            return f"the folder has files and no {MANIFEST_NAME}"
        try:
            manifest = load_json_object(self.manifest)
            listed = {str(record["path"]) for record in manifest["files"]}
        except (ValueError, KeyError, TypeError):
            return f"its {MANIFEST_NAME} was not written by sparse-deploy"
        if manifest.get("kind") != kind:
            return f"it is a {ascii(manifest.get('kind'))[:40]} and not a {kind}"
        if others := sorted(self.files - listed - {MANIFEST_NAME, SIGNATURE_NAME}):
            more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
            return f"it has {ascii(others[0])[:80]}{more}, which the manifest does not list"
        return None


def _look_into(folder: Path) -> _Content:
    """The content of a folder.

    Raises:
        OSError: not a folder, or a link.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        files = frozenset(
            os.path.normpath(os.path.join(place, name))  # noqa: PTH118 - relative to a descriptor
            for place, folders, names, _ in os.fwalk(".", dir_fd=descriptor)
            for name in [*names, *_links(place, folders, descriptor)]
        )
        return _Content(files, _manifest_in(descriptor), os.path.samestat(os.fstat(descriptor), folder.lstat()))
    finally:
        os.close(descriptor)


def _links(place: str, folders: Sequence[str], descriptor: int) -> list[str]:
    """Links to folders, which ``os.walk`` counts as folders and does not enter."""
    found = []
    for name in folders:
        with contextlib.suppress(OSError):
            mode = os.stat(f"{place}/{name}", dir_fd=descriptor, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                found.append(name)
    return found


def _manifest_in(descriptor: int) -> bytes | None:
    try:
        file = os.open(MANIFEST_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:
        return stream.read(MAX_MANIFEST_BYTES)
