# SPDX-License-Identifier: Apache-2.0
"""Exported files pass; entities, nesting, subgraphs, foreign operators and constants outside are refused."""

import numpy as np
import openvino as ov
import pytest

from sparse_deploy.errors import ArtifactError, ExitCode
from sparse_deploy.untrusted import openvino_ir
from sparse_deploy.untrusted.openvino_ir import check_openvino_ir


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    from openvino import opset13 as ops

    x = ops.parameter([-1, 4], np.float32, name="x")
    weight = ops.constant(np.arange(8, dtype=np.float32).reshape(2, 4), name="weight")
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    ov.save_model(ov.Model([ops.matmul(x, weight, False, True)], [x]), path, compress_to_fp16=False)
    return path


@pytest.fixture
def model(original, tmp_path):
    for suffix in (".xml", ".bin"):
        (tmp_path / f"model{suffix}").write_bytes(original.with_suffix(suffix).read_bytes())
    return tmp_path / "model.xml"


def test_a_saved_model_passes(model):
    check_openvino_ir(model)


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model_int8.xml"])
def test_exports_pass(tiny_deployment, name):
    check_openvino_ir(tiny_deployment / name)


def test_our_operators_pass_and_are_noticed(model):
    assert not openvino_ir.holds_sparse_operators(model)
    model.write_text(model.read_text().replace('"MatMul" version="opset1"', '"SparseLinear" version="sparse_deploy"'))
    check_openvino_ir(model)
    assert openvino_ir.holds_sparse_operators(model)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('<net ', '<!DOCTYPE net [<!ENTITY a "b">]><net ', "document type"),
        ('<net ', '<!DOCTYPE net SYSTEM "file:///etc/passwd"><net ', "document type"),
        ('<net ', '<?php x?><net ', "processing instruction"),
        ('<layers>', '<layers>&lol;', "not well-formed"),
        ('<layers>', '<layers><layers/>', "inside 'layers'"),
        ('<layers>', '<layers>text', "has text"),
        ('<net ', '<other/><net ', "inside ''"),
        ('</net>', '', "not well-formed"),
        ('type="MatMul"', 'type="MatMul" type="If"', "not well-formed"),
        ('type="MatMul" version="opset1"', 'type="MatMul" version="extension"', "allowed is opset1"),
        ('type="MatMul" version="opset1"', 'type="MatMul" version="opset17"', "allowed is opset1"),
        ('type="MatMul" version="opset1"', 'type="MatMul" version="sparse_deploy"', "SparseEncoderLayer of sparse"),
        ('type="MatMul" version="opset1"', 'type="SparseLinear" version="extension"', "allowed is opset1"),
        ('type="MatMul" version="opset1"', 'type="SparseLinear" version="sparse_deploy2"', "allowed is opset1"),
        ('type="MatMul" version="opset1"', 'type="../x" version="opset1"', "no type"),
        ('<data transpose_a', '<body><layers/></body><data transpose_a', "'body' inside 'layer'"),
        ('offset="0"', 'offset="1"', "ends at byte 33 of the .bin, which has 32"),
        ('offset="0"', 'offset="-1"', "whole number as offset"),
        ('offset="0"', 'offset="18446744073709551615"', "whole number as offset"),
        ('offset="0"', 'offset="0x0"', "whole number as offset"),
        ('offset="0"', '', "whole number as offset"),
        ('size="32"', 'size="64"', "expected 32"),
        ('shape="2, 4"', 'shape="4294967296, 4294967296"', "expected 73786976294838206464"),
        ('shape="2, 4"', 'shape="-2, -4"', "has shape"),
        ('element_type="f32" shape="2, 4"', 'element_type="string" shape="2, 4"', "element type 'string'"),
        ('type="Const"', 'type="Constant" x="', "not well-formed"),
        ('version="11"', 'version="9"', "IR version"),
        ('<dim>2</dim>', '<dim>2x</dim>', "a dimension is"),
        ('<dim>2</dim>', '<dim></dim>', "a dimension is"),
        ('from-layer="0"', 'from-layer="7"', "names layer '7'"),
        ('from-layer="0"', 'from-layer="a"', "whole number as from-layer"),
        ('layer id="1"', 'layer id="0"', "two layers"),
        ('type="Result"', 'type="Relu"', "inputs and outputs"),
    ],
)  # fmt: skip
def test_what_no_export_holds_is_refused(model, old, new, said):
    text = model.read_text()
    assert old in text
    model.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match=said) as caught:
        check_openvino_ir(model)
    assert caught.value.exit_code is ExitCode.BAD_ARTIFACT
    assert "\n" not in str(caught.value)


def test_a_constant_under_its_other_name_is_checked_as_well(model):
    model.write_text(model.read_text().replace('type="Const"', 'type="Constant"').replace('offset="0"', 'offset="8"'))
    with pytest.raises(ArtifactError, match="ends at byte 40"):
        check_openvino_ir(model)


def test_a_constant_without_data_is_refused(model):
    start, _, rest = model.read_text().partition("<data element_type")
    model.write_text(start + rest.partition("/>")[2])
    with pytest.raises(ArtifactError, match="has no data"):
        check_openvino_ir(model)


def test_deep_nesting_is_refused_without_recursion(model):
    model.write_text(model.read_text().replace("<rt_info>", "<rt_info>" + "<a>" * 100_000, 1))
    with pytest.raises(ArtifactError, match="nest deeper"):
        check_openvino_ir(model)


def test_size_and_counts(model, monkeypatch):
    for limit, value, said in (("MAX_XML_BYTES", 100, "expected 1 to 100"), ("MAX_ELEMENTS", 5, "more than 5")):
        with monkeypatch.context() as patched:
            patched.setattr(openvino_ir, limit, value)
            with pytest.raises(ArtifactError, match=said):
                check_openvino_ir(model)


def test_weights_missing_or_cut(model):
    model.with_suffix(".bin").write_bytes(bytes(31))
    with pytest.raises(ArtifactError, match="which has 31"):
        check_openvino_ir(model)
    model.with_suffix(".bin").unlink()
    with pytest.raises(ArtifactError, match=r"model\.bin: .*found none"):
        check_openvino_ir(model)


@pytest.mark.parametrize("data", [b"\xff\xfe<\0n\0", b"\0" * 50, b"<net version='11'>\xff</net>"])
def test_other_encodings(model, data):
    model.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"not well-formed|has text"):
        check_openvino_ir(model)
