# SPDX-License-Identifier: Apache-2.0
"""Limits that hold for all paths of a server."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparse_deploy.serving.body_bytes import BodyBytes
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, Tensor
from sparse_deploy.serving.service import Service
from sparse_deploy.serving.settings import ServerSettings


@pytest.fixture
def service():
    model = SimpleNamespace(
        name="tiny",
        choice=SimpleNamespace(cell="sparse-int8", batch_invariant=True),
        task=SimpleNamespace(per_token=()),
        pad_id=0,
        padded_length=lambda longest: longest,
        batch_overhead=None,
        session=SimpleNamespace(run=None, close=lambda: None),
        max_rows=256,
        max_tokens=512,
        prepare=lambda request: request,
    )
    found = Service(ServerSettings(deployment=Path(), max_characters=1000), model)
    yield found
    found.close()


def request(*texts):
    return InferRequest(None, {"text": Tensor("text", (len(texts),), list(texts))})


def test_a_query_counts_once_per_document(service):
    """As rerank repeats it: 256 documents and a long query are as much work as 256 long texts."""
    with pytest.raises(RequestError, match="may have 1000 characters; got 1010") as caught:
        asyncio.run(service._prepare(request(*["x" * 101] * 10), time.monotonic() + 1))
    assert caught.value.status == 413
    asyncio.run(service._prepare(request(*["x" * 100] * 10), time.monotonic() + 1))


def test_bodies_of_all_requests_are_bounded_together():
    whole = BodyBytes(100)
    one, other = whole.share(), whole.share()
    one.take(60)
    with pytest.raises(RequestError, match="60 bytes are in memory") as caught:
        other.take(41)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    one.release()
    one.release()
    other.take(100)
    assert whole.taken == 100
