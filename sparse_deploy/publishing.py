# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of folders and files by one rename, also if a writer is killed or several write to one target.

An unfinished folder is stored next to its target as ``.NAME.RANDOM.partial``, and its writer holds a lock on it. The
kernel releases the lock with the process, so a partial folder whose lock can be taken has no writer, and the next
writer of the target removes it. A process id or an age is not sufficient: ids are reused and differ between containers
that share a disk, and an export may take hours. On a file system without locks (some network file systems), no partial
folder is removed.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sparse_deploy.errors import ArtifactError, ConfigError

_PARTIAL, _RETIRED = ".partial", ".retired"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
_ATTEMPTS, _PAUSE_SECONDS = 3000, 0.01


@contextlib.contextmanager
def staging_beside(target: Path) -> Iterator[Path]:
    """A new, locked folder next to ``target``, for :func:`publish`; it is removed at the end if it was not published.

    Partial folders of killed writers are removed first.

    Raises:
        OSError: no space, no permission.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target)
    staging, lock = _locked_folder(target)
    try:
        staging.chmod(0o755)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def publish(staging: Path, target: Path) -> None:
    """Rename a staged folder to its target; an earlier folder is exchanged with it atomically.

    If the file system can't exchange names, the earlier folder is renamed first; a kill between the two renames leaves
    it as ``.retired`` next to the target, and :func:`clear_leftovers` restores it.

    Raises:
        OSError: no permission, or the target is not a folder.
    """
    for _ in range(_ATTEMPTS):
        try:
            staging.rename(target)  # the target does not exist, or is empty
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # Other writers may move the target between two calls; then try again.
        with contextlib.suppress(FileNotFoundError):
            if exchange(staging, target) or _replace_in_two_steps(staging, target):
                break
        time.sleep(_PAUSE_SECONDS)
    else:
        raise OSError(errno.EBUSY, "other writers changed the folder repeatedly")
    sync_folder(target.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; false if this system can't.

    Raises:
        OSError: a path does not exist, or may not be moved.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # glibc before 2.28, or another system
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def clear_leftovers(target: Path) -> None:
    """Remove partial folders of killed writers of a target; restore an artifact that was moved but not replaced."""
    for path in _leftovers(target):
        lock = _claim(path)
        if lock is None:
            continue
        if path.suffix == _RETIRED and not os.path.lexists(target):
            with contextlib.suppress(OSError):
                path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        os.close(lock)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old or the new content.

    Raises:
        OSError: as for any write; the old content is then kept.
    """
    clear_leftovers(path)
    temporary, lock = _locked_file(path)
    try:
        with open(lock, "wb", closefd=False) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(lock)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder, created if missing, against other processes that use this function.

    Raises:
        ConfigError: another process has locked it.
        ArtifactError: the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    lock = _claim(folder, without_locks=True)
    if lock is None:
        raise ConfigError(f"{folder}: another process writes to it; wait until it ends, or choose another folder")
    try:
        yield
    finally:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(target: Path, error: OSError) -> ArtifactError:
    """The error for a failed write."""
    # Native writers (OpenVINO's) report a full disk as a stream error without a number.
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and _free_bytes(target) < 1_000_000)
    if full:
        return ArtifactError(f"{target}: the disk is full; free some space. Nothing was written.")
    return ArtifactError(f"{target}: can't write: {error}. Nothing was written.")


def _free_bytes(target: Path) -> int:
    try:
        return shutil.disk_usage(target.parent).free
    except OSError:
        return 0


def _replace_in_two_steps(staging: Path, target: Path) -> bool:
    """Replace without an exchange; false if another writer was faster. The lock prevents a restore in between."""
    lock = _claim(target, without_locks=True)
    if lock is None:
        return False
    retired = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_RETIRED}")
    try:
        target.rename(retired)  # the folder is still locked, so no other writer restores it
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            retired.rename(target)
            raise
        return True
    finally:
        shutil.rmtree(retired, ignore_errors=True)
        os.close(lock)


def _leftovers(target: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\w+\.(partial|retired)")
    try:
        return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []


def _locked_folder(target: Path) -> tuple[Path, int]:
    while True:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
        lock = _claim(staging, without_locks=True)
        if lock is not None:  # else another writer removed the new folder as a leftover
            return staging, lock


def _locked_file(path: Path) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _lock(descriptor, temporary, without_locks=True):
            return temporary, descriptor
        os.close(descriptor)


def _claim(path: Path, *, without_locks: bool = False) -> int | None:
    """The descriptor of a path with its lock; None if another process has the lock, or the path does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if _lock(descriptor, path, without_locks=without_locks):
        return descriptor
    os.close(descriptor)
    return None


def _lock(descriptor: int, path: Path, *, without_locks: bool) -> bool:
    """Lock a descriptor, if the path still refers to the same file.

    Args:
        descriptor: descriptor opened from the path.
        path: the path, which may have been removed or replaced in the meantime.
        without_locks: the result if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
