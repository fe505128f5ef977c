# SPDX-License-Identifier: Apache-2.0
"""Opening a model in a server."""

import json
import shutil
from types import SimpleNamespace

import pytest
from tiny_deployment import BENCH_RECIPE, seal_deployment

from sparse_deploy.errors import ArtifactError
from sparse_deploy.serving import model
from sparse_deploy.serving.model import open_model
from sparse_deploy.serving.settings import ServerSettings


class Session:
    """A model that takes 3 ms and 0.2 ms per token, on a clock of its own; now and then other processes interfere."""

    def __init__(self):
        self.now, self.runs = 0.0, 0

    def run(self, inputs):
        self.runs += 1
        self.now += 0.003 + 0.0002 * inputs["input_ids"].size + (0.05 if self.runs % 3 == 0 else 0)


def test_the_overhead_of_a_batch_is_told_in_tokens(monkeypatch):
    session = Session()
    monkeypatch.setattr(model, "time", SimpleNamespace(perf_counter=lambda: session.now))
    assert model._batch_overhead(session, 128) == pytest.approx(15)
    assert model._batch_overhead(session, 8) == pytest.approx(15)


def test_a_machine_without_time_to_measure_on_gives_a_number_all_the_same(monkeypatch):
    monkeypatch.setattr(model, "time", SimpleNamespace(perf_counter=iter(range(1000)).__next__))
    assert 0 < model._batch_overhead(Session(), 32) < float("inf")


@pytest.mark.parametrize(("runtime", "measured"), [("sparse", False), ("onnxruntime", True)])
def test_only_where_padding_is_computed_the_overhead_matters(tiny_deployment, runtime, measured):
    opened = open_model(ServerSettings(deployment=tiny_deployment, runtime=runtime, threads=1), isolated=False)
    opened.session.close()
    assert (opened.batch_overhead is not None) == measured


def test_lengths_are_padded_to_a_multiple_but_never_beyond_what_the_model_reads():
    opened = SimpleNamespace(choice=SimpleNamespace(length_multiple=16), max_tokens=40)
    assert [model.ServedModel.padded_length(opened, length) for length in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]


@pytest.mark.parametrize(
    ("config", "recipe", "message"),
    [
        ({}, {"data": {"max_length": 10**9}}, "no readable data section"),
        ({}, {"data": {"max_length": 1000}}, "data.max_length is 1000, the model reads at most 128 tokens"),
        ({"max_position_embeddings": None}, {"data": {"max_length": 100_000}}, "reads at most 8192 tokens"),
        ({"max_position_embeddings": 10**12}, {}, "expected max_position_embeddings of 1 to"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, {}, "with 3 labels in id2label"),
        ({"id2label": {"0": "a"}}, {}, "with 1 labels in id2label"),
        ({"vocab_size": None}, {}, "expected vocab_size"),
        ({"vocab_size": "many"}, {}, "expected vocab_size of 1 to"),
        ({"pad_token_id": "[PAD]"}, {}, "expected pad_token_id of 0 to"),
        ({"pad_token_id": 2**70}, {}, "expected pad_token_id of 0 to"),
        ({"pad_token_id": 2**23}, {}, "is outside the vocabulary"),
        ({"type_vocab_size": True}, {}, "expected type_vocab_size of 0 to"),
        ("[" * 100_000, {}, "not a readable model config: nested too deep"),
        ('{"vocab_size": 1, "vocab_size": 2}', {}, "key 'vocab_size' is given twice"),
        ({}, {"task": "squad"}, "leaves -35 for the context"),
        ({}, {"task": "squad", "data": {"max_length": 100, "doc_stride": 16}}, "question-answering"),
        ({}, {"task": "stsb"}, "regression"),
        ({}, {"task": "nonsense"}, "unknown task 'nonsense'"),
        ({}, {"name": "a/b"}, "the recipe's name 'a/b' can't be part of a URL"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_line(tiny_deployment, tmp_path, config, recipe, message):
    folder = tmp_path / "deployment"
    shutil.copytree(tiny_deployment, folder)
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(json.loads(path.read_text()) | config))
    seal_deployment(folder, BENCH_RECIPE | recipe)
    settings = ServerSettings(deployment=folder, runtime="onnxruntime", threads=1)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_model(settings, isolated=False)
    assert "\n" not in str(caught.value)
