# SPDX-License-Identifier: Apache-2.0
"""Deployments open unchanged in Optimum, in its own environments; skipped where those have not been made."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from own_models import export_fp32, save_tagger
from tiny_deployment import seal_deployment, write_models

SCRIPT = Path(__file__).parents[2] / "tools" / "check_optimum.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_optimum", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if any(module.environment_python(library) is None for library in module.LIBRARIES):
        pytest.skip("no Optimum environments here; .venv/bin/python tools/check_optimum.py --install-only makes them")
    return module


def deployment(folder: Path, encoder: Path, task: str) -> Path:
    folder.mkdir()
    write_models(folder, encoder, question_answering=task == "squad", labels={"stsb": 1, "mnli": 3}.get(task, 2))
    seal_deployment(folder, {"name": folder.name, "task": task, "model": {"name_or_path": "tiny"}})
    return folder


@pytest.mark.parametrize("task", ["sst2", "squad"])
def test_every_file_opens_in_optimum_and_answers_the_same(tool, tiny_encoder, tmp_path, capsys, task):
    folder = deployment(tmp_path / task, tiny_encoder, task)
    status = tool.main([str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, "\n".join(lines)
    assert len(lines) == 6  # default file, FP32 by name, INT8; for both libraries
    expected = "QuestionAnswering" if task == "squad" else "SequenceClassification"
    assert all(f"ORTModelFor{expected}" in line or f"OVModelFor{expected}" in line for line in lines)


@pytest.mark.parametrize("kind", ["TokenClassification", "CustomTasks"])
def test_other_kinds_open_in_optimum(tool, tiny_encoder, sentence_encoder, tmp_path, capsys, kind):
    """Entities, and vectors of sentences: those are pooled, which no class of Optimum's knows by name."""
    model = sentence_encoder
    if kind == "TokenClassification":
        model = save_tagger(tiny_encoder, tmp_path / "model", ["O", "B-PER", "I-PER"])
    status = tool.main([str(export_fp32(model, tmp_path / "out", openvino=True))])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0, "\n".join(lines)
    assert len(lines) == 4  # default file and FP32 by name; for both libraries
    assert all(f"ModelFor{kind}" in line for line in lines)


def test_another_model_under_the_same_name_is_noticed(tool, tiny_encoder, tmp_path, capsys, monkeypatch):
    folder = deployment(tmp_path / "sst2", tiny_encoder, "sst2")
    other = shutil.copytree(folder, tmp_path / "other")
    ours = tool._our_answers
    shutil.copy(folder / "model_int8.onnx", other / "model.onnx")  # so "ours" is another model than Optimum opens
    monkeypatch.setattr(tool, "_our_answers", lambda library, _, *rest: ours(library, other, *rest))
    assert tool.main([str(folder)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert [("model.onnx" in line or "default file" in line) and "optimum-onnx" in line for line in failed] == [
        True
    ] * 2
