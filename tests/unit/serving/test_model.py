# SPDX-License-Identifier: Apache-2.0
"""What a server learns of a model as it opens it."""

from types import SimpleNamespace

import pytest

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
