# SPDX-License-Identifier: Apache-2.0
"""Signatures of deployments, over all files, by a key in a file. No network is used.

Format: OpenSSF Model Signing, a Sigstore bundle with a signed list of files and hashes
(https://github.com/ossf/model-signing-spec). ``model_signing verify key`` reads it, too.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError, one_line
from sparse_deploy.file_records import SIGNATURE_NAME

_MAX_SIGNATURE_BYTES = 4 * 2**20


def open_signer(key: Path) -> Any:
    """Open a signer, to check its key before the work starts.

    Args:
        key: an elliptic-curve private key in PEM, without a password.

    Raises:
        RuntimeUnavailableError: the library is not installed.
        ConfigError: no such key.
    """
    library = _library()
    with _key_errors("--sign", key, "a private key"):
        return library.signing.Config().use_elliptic_key_signer(private_key=key)


def sign(folder: Path, signer: Any) -> None:
    """Write the signature of a complete folder into it.

    Args:
        folder: the folder, with its manifest.
        signer: result of :func:`open_signer`.
    """
    hashing = _library().hashing.Config().set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
    signer.set_hashing_config(hashing).sign(folder, folder / SIGNATURE_NAME)
    (folder / SIGNATURE_NAME).chmod(0o644)


def verify(folder: Path, key: Path) -> None:
    """Check the signature of a folder by a key: every file is unaltered, and there are no other files.

    Args:
        folder: the artifact.
        key: the public key in PEM.

    Raises:
        RuntimeUnavailableError: the library is not installed.
        ConfigError: no such key.
        ArtifactError: no signature, a signature by another key, or other files.
    """
    library = _library()
    with _key_errors("--verify-key", key, "a public key"):
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
    path = folder / SIGNATURE_NAME
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _MAX_SIGNATURE_BYTES:
        raise ArtifactError(f"{folder}: expected a signature in {SIGNATURE_NAME}, found none; export with --sign")
    hashing = library.hashing.Config().set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
    try:
        verifier.set_hashing_config(hashing).verify(folder, path)
    except Exception as error:  # the library and its dependencies raise many classes
        reason = one_line(error)
        raise ArtifactError(f"{folder}: the signature does not fit {key} and these files: {reason}") from error


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"signatures need model-signing ({error}); install it with: pip install 'sparse-deploy[signing]'"
        ) from error
    return model_signing


@contextlib.contextmanager
def _key_errors(option: str, key: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # cryptography's own classes, TypeError for a password, ValueError, OSError
        reason = one_line(error)
        raise ConfigError(f"{option} {key}: expected {what} (elliptic curve, PEM): {reason}") from error
