# SPDX-License-Identifier: Apache-2.0
"""A signed deployment is served with its signer's key, and refused with any change or another key."""

import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sparse_deploy.artifacts import Manifest, Source, load_manifest, seal, staged_folder
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.serving.model import open_model
from sparse_deploy.serving.settings import ServerSettings
from sparse_deploy.signing import open_signer, sign, verify

pytest.importorskip("model_signing")


def write_keys(folder, name):
    private = ec.generate_private_key(ec.SECP256R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / f"{name}.key").write_bytes(private.private_bytes(pem, form, serialization.NoEncryption()))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.key", folder / f"{name}.pub"


def write_signed(target, key, content="weights"):
    with staged_folder(target, "deployment") as staging:
        (staging / "model.onnx").write_text(content)
        seal(staging, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={}))
        sign(staging, open_signer(key))


def test_a_signature_holds_for_this_key_and_these_files_alone(tmp_path):
    key, public = write_keys(tmp_path, "ours")
    _, other = write_keys(tmp_path, "other")
    folder = tmp_path / "out"
    write_signed(folder, key, "earlier")
    write_signed(folder, key)  # an earlier signature is not an unlisted file
    load_manifest(folder, "deployment")
    verify(folder, public)
    shutil.copytree(folder, tmp_path / "copied")
    verify(tmp_path / "copied", public)

    with pytest.raises(ArtifactError, match=r"does not fit .*other\.pub"):
        verify(folder, other)
    # A writer of the folder can make a manifest that matches other weights.
    with staged_folder(tmp_path / "forged", "deployment") as staging:
        (staging / "model.onnx").write_text("other weights")
        seal(staging, Manifest(kind="deployment", task="t", source=Source(name_or_path="x"), recipe={}, sparsity={}))
        shutil.copy(folder / "model.sig", staging)
    load_manifest(tmp_path / "forged", "deployment")
    with pytest.raises(ArtifactError, match="does not fit"):
        verify(tmp_path / "forged", public)
    (folder / "README.md").write_text("added")
    with pytest.raises(ArtifactError, match=r"README\.md"):
        verify(folder, public)
    for content in (b"", b"{}", b"[" * 100_000):
        (folder / "model.sig").write_bytes(content)
        with pytest.raises(ArtifactError, match="does not fit"):
            verify(folder, public)
    (folder / "model.sig").unlink()
    with pytest.raises(ArtifactError, match=r"expected a signature in model\.sig, found none"):
        verify(folder, public)


def test_a_server_with_a_key_refuses_what_is_not_signed(tiny_deployment, tmp_path):
    _, public = write_keys(tmp_path, "ours")
    with pytest.raises(ArtifactError, match="expected a signature"):
        open_model(ServerSettings(deployment=tiny_deployment, verify_key=public))


def test_what_is_no_key_is_said_at_once(tmp_path):
    key, public = write_keys(tmp_path, "ours")
    for wrong in (public, tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match=r"--sign .*: expected a private key"):
            open_signer(wrong)
    for wrong in (key, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"--verify-key .*: expected a public key"):
            verify(tmp_path, wrong)
