# SPDX-License-Identifier: Apache-2.0
"""The best span over windows: inside the context, short enough, and exact on real questions when logits are."""

import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.features import encode_split, tokenize_training
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.metrics import score_split
from sparse_deploy.data.squad import WindowMap, best_answer
from sparse_deploy.data.tasks import get_task

CONTEXT = "alpha beta gamma delta"
SPANS = [(0, 5), (6, 10), (11, 16), (17, 22)]
# [CLS] question [SEP] alpha beta gamma delta [SEP]
WINDOW = WindowMap(np.array([(-1, -1)] * 3 + SPANS + [(-1, -1)], dtype=np.int64))


def logits(**high):
    start, end = np.zeros(8), np.zeros(8)
    for token, value in high.get("start", {}).items():
        start[token] = value
    for token, value in high.get("end", {}).items():
        end[token] = value
    return start, end


def answer(*windows, **settings):
    return best_answer(CONTEXT, [WINDOW] * len(windows), windows, **settings).text


def test_span_is_cut_from_the_context():
    assert answer(logits(start={4: 5.0}, end={5: 5.0})) == "beta gamma"


def test_tokens_outside_the_context_never_answer():
    assert answer(logits(start={0: 99.0, 1: 99.0, 4: 5.0}, end={0: 99.0, 7: 99.0, 4: 5.0})) == "beta"


def test_end_before_start_and_long_spans_are_skipped():
    assert answer(logits(start={5: 5.0}, end={4: 6.0, 6: 4.0})) == "gamma delta"
    assert answer(logits(start={3: 5.0}, end={6: 5.0})) == CONTEXT
    assert answer(logits(start={3: 5.0}, end={6: 5.0, 4: 1.0}), max_answer_length=2) == "alpha beta"


def test_better_window_wins_and_a_tie_goes_to_the_first():
    weak, strong = logits(start={3: 5.0}, end={3: 5.0}), logits(start={6: 6.0}, end={6: 6.0})
    assert answer(weak, strong) == "delta"
    assert answer(weak, logits(start={6: 5.0}, end={6: 5.0})) == "alpha"
    assert answer(logits()) == "alpha"


def test_n_best_bounds_the_candidates():
    crossed = logits(start={6: 9.0, 3: 5.0}, end={3: 9.0, 6: 5.0})
    assert answer(crossed, n_best=4) == "alpha"
    assert answer(crossed, n_best=1) == ""


def test_window_without_context_gives_no_answer():
    empty = WindowMap(np.full((4, 2), -1, dtype=np.int64))
    assert best_answer(CONTEXT, [empty], [(np.zeros(4), np.zeros(4))]).text == ""


def test_tokens_of_needs_the_whole_span():
    assert WINDOW.tokens_of(6, 16) == (4, 5)
    assert WINDOW.tokens_of(8, 9) == (4, 4)
    assert WINDOW.tokens_of(11, 30) is None


@pytest.mark.realdata
def test_gold_logits_give_full_marks_on_real_questions(real_data, bert_tokenizer):
    task = get_task("squad")
    rows = load_split(task, "validation", real_data, limit=60, shuffle_seed=5)
    data = DataSection(max_length=96, doc_stride=32)
    split = encode_split(task, rows, bert_tokenizer, data)
    training = tokenize_training(task, rows, bert_tokenizer, data)
    assert len(split.features) > 150
    outputs = []
    for feature, target in zip(split.features, training, strict=True):
        one_hot = np.zeros((2, len(feature["input_ids"])))
        one_hot[0, target["start_positions"]] = one_hot[1, target["end_positions"]] = 10.0
        outputs.append((one_hot[0], one_hot[1]))
    score = score_split(task, split, outputs, DataSection(max_answer_length=60))
    assert score.metrics == {"exact_match": 100.0, "f1": 100.0}
