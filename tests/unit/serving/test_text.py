# SPDX-License-Identifier: Apache-2.0
"""The server's tokens are equal to those of `bench`."""

import json

import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.features import encode_split, load_tokenizer
from sparse_deploy.data.squad import tokenize_windows
from sparse_deploy.data.tasks import get_task
from sparse_deploy.errors import ArtifactError
from sparse_deploy.serving.inference_protocol import RequestError
from sparse_deploy.serving.text import TextEncoder

TEXTS = [
    "a gripping, funny and humane film",
    "",
    "   leading and trailing   ",
    "Ünïcödé — 漢字 and emoji 🎬, NUL \x00 and tab\t.",
    "word " * 200,
    "[CLS] special [SEP] tokens [MASK]",
    "x" * 500,
]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("pairs", [False, True])
def test_same_tokens_as_evaluation(tiny_encoder, pairs):
    from datasets import Dataset

    others = list(reversed(TEXTS))
    rows = {"sentence1": TEXTS, "sentence2": others} if pairs else {"sentence": TEXTS}
    task = get_task("mrpc" if pairs else "sst2")
    split = encode_split(task, Dataset.from_dict(rows), load_tokenizer(tiny_encoder), DataSection(max_length=48))
    encoder = TextEncoder(tiny_encoder, 48)
    assert_same(encoder.encode(TEXTS, others if pairs else None)[0], split.features)
    one_by_one = [
        encoder.encode([text], [other] if pairs else None)[0][0] for text, other in zip(TEXTS, others, strict=True)
    ]
    assert_same(one_by_one, split.features)


@pytest.mark.parametrize("question", ["Who keeps every zero?", "   why  ", "word " * 90])
@pytest.mark.parametrize("context", ["The sparse engine keeps every zero.", "A b c, ä 漢字. " * 60])
def test_same_windows_as_evaluation(tiny_encoder, question, context):
    encoding, maps, _ = tokenize_windows([question], [context], load_tokenizer(tiny_encoder), 128, 32)
    features, own_maps = TextEncoder(tiny_encoder, 128, 32).windows(question, context, 100)
    assert [list(feature["input_ids"]) for feature in features] == encoding["input_ids"]
    assert [list(feature["token_type_ids"]) for feature in features] == encoding["token_type_ids"]
    for own, other in zip(own_maps, maps, strict=True):
        np.testing.assert_array_equal(own.spans, other.spans)


def test_windows_are_counted_before_they_are_made(tiny_encoder):
    encoder = TextEncoder(tiny_encoder, 128, 32)
    for words in (1, 60, 61, 150, 151, 152, 400, 2000):
        context = "word " * words
        made, _ = encoder.windows("why?", context, 10_000)
        assert encoder._count_windows("why?", context) == len(made)
        if len(made) > 1:
            with pytest.raises(RequestError, match="rows or windows") as caught:
                encoder.windows("why?", context, len(made) - 1)
            assert caught.value.status == 413


def test_windows_that_could_not_overlap_are_refused_before_any_question_comes(tiny_encoder):
    with pytest.raises(ArtifactError, match=r"leaves 29 for the context, too few for data.doc_stride 32"):
        TextEncoder(tiny_encoder, 96, 32)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", json.dumps({"model": {"type": "Nope"}}).encode()])
def test_a_damaged_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer.json: not a readable tokenizer"):
        TextEncoder(tmp_path, 32)


def test_no_tokenizer(tmp_path):
    with pytest.raises(ArtifactError, match="expected a tokenizer"):
        TextEncoder(tmp_path, 32)
