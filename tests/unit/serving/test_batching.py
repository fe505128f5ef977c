# SPDX-License-Identifier: Apache-2.0
"""The batcher: choice of sequences, and late, cancelled, refused or failing requests."""

import asyncio
import threading
import time

import numpy as np
import pytest

from sparse_deploy.serving import batching
from sparse_deploy.serving.batching import Batcher
from sparse_deploy.serving.inference_protocol import RequestError


class Observer:
    def __init__(self):
        self.batches = []

    def batch(self, rows, tokens, padded, seconds):
        self.batches.append((rows, tokens, padded))

    def waited(self, seconds):
        assert seconds >= 0


class Model:
    """Answers each sequence with the sum of its tokens and itself; can be held, and can fail."""

    def __init__(self):
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.poison = None
        self.seen = []

    def __call__(self, inputs):
        self.entered.set()
        self.gate.wait(10)
        ids = inputs["input_ids"]
        self.seen.append(ids.shape)
        if self.poison is not None and (ids == self.poison).any():
            raise ValueError("poison")
        values = (ids * inputs["attention_mask"]).astype(np.float32)
        return values, values


@pytest.fixture
def model():
    return Model()


def open_batcher(model, observer=None, **settings):
    chosen = {
        "pad_id": 0,
        "per_token": (True, True),
        "padded_length": lambda longest: longest,
        "max_batch": 8,
        "max_delay": 0.0,
        "overhead": None,
        "capacity": 32,
        **settings,
    }
    return Batcher(model, observer=observer or Observer(), **chosen)


def sequence(*tokens):
    ids = np.array(tokens, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


async def until(reached):
    """Let the loop run until a state is reached."""
    while not reached():
        await asyncio.sleep(0.001)


async def until_waiting(batcher, sequences):
    await until(lambda: batcher.waiting == sequences)


async def held(batcher, model, *tokens):
    """A request that is being computed and stays there until the gate opens."""
    model.gate.clear()
    model.entered.clear()
    task = asyncio.ensure_future(batcher.answer([sequence(*tokens)], time.monotonic() + 10))
    await until(model.entered.is_set)
    return task


def answer(batcher, *features, seconds=5.0):
    return asyncio.ensure_future(batcher.answer(list(features), time.monotonic() + seconds))


def test_each_request_gets_its_own_rows_without_padding(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        tasks = [answer(batcher, sequence(2, 3), sequence(4)), answer(batcher, sequence(5, 6, 7))]
        await until_waiting(batcher, 3)
        model.gate.set()
        found = await asyncio.gather(*tasks)
        await first
        batcher.close()
        return found

    two, one = asyncio.run(run())
    assert [list(outputs[0]) for outputs in two] == [[2, 3], [4]]
    assert [list(outputs[1]) for outputs in one] == [[5, 6, 7]]
    assert model.seen == [(1, 1), (3, 3)]


def test_a_batch_is_padded_as_its_runtime_needs_it_and_answered_without(model):
    async def run():
        batcher = open_batcher(model, padded_length=lambda longest: -(-longest // 4) * 4)
        found = await answer(batcher, sequence(1, 2, 3, 4, 5), sequence(6))
        batcher.close()
        return found

    assert [list(outputs[0]) for outputs in asyncio.run(run())] == [[1, 2, 3, 4, 5], [6]]
    assert model.seen == [(2, 8)]


def test_observer_counts_padding(model):
    observer = Observer()

    async def run():
        batcher = open_batcher(model, observer)
        await answer(batcher, sequence(1, 2, 3), sequence(4))
        batcher.close()

    asyncio.run(run())
    assert observer.batches == [(2, 4, 6)]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(model):
    async def run():
        batcher = open_batcher(model, capacity=2)
        first = await held(batcher, model, 1)
        waiting = answer(batcher, sequence(1), sequence(2))
        await until_waiting(batcher, 2)
        with pytest.raises(RequestError) as caught:
            await answer(batcher, sequence(3))
        model.gate.set()
        await asyncio.gather(first, waiting)
        await answer(batcher, sequence(3))
        batcher.close()
        return caught.value

    error = asyncio.run(run())
    assert error.status == 503
    assert error.retry_after >= 1


def test_too_late_is_504_and_is_not_computed(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        with pytest.raises(RequestError) as caught:
            await answer(batcher, sequence(9), seconds=0.05)
        model.gate.set()
        await first
        await answer(batcher, sequence(2))
        batcher.close()
        return caught.value

    assert asyncio.run(run()).status == 504
    assert model.seen == [(1, 1), (1, 1)]


def test_a_cancelled_request_is_dropped(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        left = answer(batcher, sequence(9, 9), sequence(9, 9))
        await until_waiting(batcher, 2)
        left.cancel()
        await until(left.done)
        stays = answer(batcher, sequence(2))
        model.gate.set()
        await asyncio.gather(first, stays)
        batcher.close()

    asyncio.run(run())
    assert model.seen == [(1, 1), (1, 1)]


def test_one_poisonous_sequence_fails_alone(model):
    model.poison = 13

    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        tasks = [answer(batcher, sequence(2)), answer(batcher, sequence(13)), answer(batcher, sequence(3))]
        await until_waiting(batcher, 3)
        model.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        batcher.close()
        return found

    good, bad, fine = asyncio.run(run())
    assert [good[0][0][0], fine[0][0][0]] == [2, 3]
    assert (bad.status, bad.message) == (500, "the model failed: poison")


def test_a_lone_sequence_waits_for_company_as_long_as_it_is_told(model):
    async def run():
        batcher = open_batcher(model, max_delay=1.0)
        begin = time.monotonic()
        tasks = [answer(batcher, sequence(1))]
        await until_waiting(batcher, 1)
        tasks.append(answer(batcher, sequence(2)))
        await asyncio.gather(*tasks)
        batcher.close()
        return time.monotonic() - begin

    assert asyncio.run(run()) >= 1.0
    assert model.seen == [(2, 1)]


def test_a_full_batch_does_not_wait(model):
    async def run():
        batcher = open_batcher(model, max_delay=60.0, max_batch=2)
        await answer(batcher, sequence(1), sequence(2), seconds=5)
        batcher.close()

    asyncio.run(run())


def test_close_answers_what_waits_and_refuses_what_comes(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        waiting = answer(batcher, sequence(2))
        await until_waiting(batcher, 1)
        closing = asyncio.get_running_loop().run_in_executor(None, batcher.close)
        await until(lambda: batcher._closing)
        with pytest.raises(RequestError) as caught:
            await answer(batcher, sequence(3))
        model.gate.set()
        await closing
        await asyncio.gather(first, waiting)
        return caught.value

    assert asyncio.run(run()).status == 503
    assert len(model.seen) == 2


class Faulty:
    """The first call fails, later ones succeed."""

    def __init__(self, whole):
        self.whole, self.failed = whole, False

    def __call__(self, *arguments):
        if not self.failed:
            self.failed = True
            raise RuntimeError("a fault")
        return self.whole(*arguments)


FAULTS = {"padding": "pad_batch", "choosing": "choose_rows", "delivering": "_deliver"}


@pytest.mark.parametrize("fault", [*FAULTS, "observer", "rows"])
def test_the_thread_survives_whatever_fails_and_the_next_request_is_answered(model, monkeypatch, fault):
    observer = Observer()
    if fault in FAULTS:
        monkeypatch.setattr(batching, FAULTS[fault], Faulty(getattr(batching, FAULTS[fault])))
    elif fault == "observer":
        observer.waited, observer.batch = Faulty(observer.waited), Faulty(observer.batch)

    def run(inputs):
        values, same = model(inputs)
        return (values[:1], same[:1]) if fault == "rows" else (values, same)

    async def ask():
        batcher = open_batcher(run, observer)
        first = await asyncio.gather(
            answer(batcher, sequence(2)), answer(batcher, sequence(3, 4)), return_exceptions=True
        )
        second = await answer(batcher, sequence(5))
        batcher.close()
        return first, second, batcher.busy_seconds

    first, second, busy = asyncio.run(ask())
    for found, expected in zip(first, ([2], [3, 4]), strict=True):
        if isinstance(found, RequestError):
            assert found.status == 500
        else:
            assert list(found[0][0]) == expected
    assert list(second[0][0]) == [5]
    assert busy == 0


def test_how_long_a_batch_runs_is_known_and_a_dead_thread_is(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        assert 0 < batcher.busy_seconds < 10
        assert not batcher.close(0)
        model.gate.set()
        await first
        assert batcher.close()
        batcher._closing = False
        return batcher.busy_seconds

    assert asyncio.run(run()) == float("inf")


def test_what_waits_is_refused_when_it_is_dropped(model):
    async def run():
        batcher = open_batcher(model)
        first = await held(batcher, model, 1)
        waiting = answer(batcher, sequence(2), sequence(3))
        await until_waiting(batcher, 2)
        batcher.drop()
        with pytest.raises(RequestError) as caught:
            await waiting
        model.gate.set()
        await first
        batcher.close()
        return caught.value

    assert asyncio.run(run()).status == 503
