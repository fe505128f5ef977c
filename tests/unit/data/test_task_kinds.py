# SPDX-License-Identifier: Apache-2.0
"""Tasks other than GLUE's: rows, metrics, and outputs of the server."""

import json

import datasets
import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.encoded import ServedText, WindowMap
from sparse_deploy.data.features import encode_split, tokenize_training
from sparse_deploy.data.problems import RowProblem
from sparse_deploy.data.squad import squad_scores
from sparse_deploy.data.tasks import (
    MultiLabelClassification,
    QuestionAnswering,
    Ranking,
    SentenceEmbedding,
    TextClassification,
    TokenClassification,
)
from sparse_deploy.data.tasks.entities import Entity, entities_of
from sparse_deploy.data.tasks.retrieval_metrics import retrieval_scores
from sparse_deploy.data.tasks.token_classification import words_of_text

DATA = DataSection(max_length=32, doc_stride=4)
TOPICS = MultiLabelClassification("topics", labels=("food", "price", "staff"))
NER = TokenClassification("ner", labels=("O", "B-PER", "I-PER", "B-LOC"))
RANK = Ranking("rank")


def encode(task, rows, tokenizer):
    return encode_split(task, datasets.Dataset.from_list([task.check_row(row) for row in rows]), tokenizer, DATA)


def test_the_models_order_of_labels_is_undone_where_answers_are_scored_and_applied_where_it_learns(tokenizer):
    task = TextClassification("t", labels=("negative", "positive")).with_model_labels(("positive", "negative"))
    rows = [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}]
    split = encode(task, rows, tokenizer)
    score = task.score(split, [(np.array([3.0, 0.0]),), (np.array([0.0, 3.0]),)], DATA)
    assert score.metrics["accuracy"] == 1.0
    assert score.rows[0] == {"id": 0, "label": 1, "prediction": 1, "correct": True, "logits": [0.0, 3.0]}
    checked = datasets.Dataset.from_list([task.check_row(row) for row in rows])
    assert list(tokenize_training(task, checked, tokenizer, DATA)["labels"]) == [0, 1]


@pytest.mark.parametrize("label", [["price", "food"], "food; price", '["food", "price"]', [0, 1]])
def test_several_labels_are_a_list_or_a_text(label):
    assert TOPICS.check_row({"text": "x", "label": label})["label"] == [0, 1]


def test_several_labels_are_those_over_the_threshold(tokenizer):
    split = encode(TOPICS, [{"text": "a", "label": ["food", "price"]}, {"text": "b", "label": []}], tokenizer)
    outputs = [(np.array([2.0, -2.0, -2.0]),), (np.array([-2.0, -2.0, 2.0]),)]
    score = TOPICS.score(split, outputs, DATA)
    assert [row["prediction"] for row in score.rows] == [[0], [2]]
    assert score.metrics["micro_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))  # one hit, one too many, one missed
    assert score.metrics["subset_accuracy"] == 0.0
    assert score.metrics["macro_f1"] == pytest.approx(0.5)  # of food 1, of price 0
    served = TOPICS.answers([], [[row] for row in outputs], ("food", "price", "staff"), 30)
    assert [json.loads(text) for text in served["labels"]] == [["food"], ["staff"]]
    np.testing.assert_allclose(served["probabilities"][0], 1 / (1 + np.exp(-outputs[0][0])))
    with pytest.raises(RowProblem, match="unknown label 'wine'"):
        TOPICS.check_row({"text": "x", "label": ["wine"]})


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # as conlleval, and seqeval's default, read it
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("O O", []),
    ],
)
def test_entities_of_tags(tags, found):
    assert entities_of(tags.split()) == [Entity(*one) for one in found]


def test_entities_are_scored_by_words_and_served_as_spans(tokenizer):
    row = {"tokens": ["lovely", "staff", "was", "dreadful"], "label": ["B-PER", "I-PER", "O", "B-LOC"]}
    split = encode(NER, [row], tokenizer)
    (words,) = split.words
    assert len(words) == len(split.features[0]["input_ids"]) > 6  # words of several pieces
    logits = np.zeros((len(words), 4), np.float32)
    for token, word in enumerate(words):
        if word >= 0:
            logits[token, [1, 2, 0, 0][word]] = 5.0  # the last entity is missed
    score = NER.score(split, [(logits,)], DATA)
    assert score.rows[0]["prediction"] == [1, 2, 0, 0]
    assert score.rows[0]["counts"] == [1, 0, 1]
    assert score.metrics == {"f1": pytest.approx(2 / 3), "precision": 1.0, "recall": 0.5}
    labels = tokenize_training(NER, datasets.Dataset.from_list([NER.check_row(row)]), tokenizer, DATA)["labels"][0]
    assert [label for label in labels if label != -100] == [1, 2, 0, 3]

    text = " ".join(row["tokens"])
    spans = np.array(tokenizer(text, return_offsets_mapping=True)["offset_mapping"])
    spans[spans[:, 0] == spans[:, 1]] = -1
    served = NER.answers([ServedText((text,), [WindowMap(spans)])], [[(logits,)]], NER.labels, 30)
    (entity,) = json.loads(served["entities"][0])
    assert (entity["entity_group"], entity["word"], entity["start"], entity["end"]) == ("PER", "lovely staff", 0, 12)
    assert 0.97 < entity["score"] < 1.0


def test_entities_are_scored_as_seqeval_scores_them(tokenizer):
    """On any tags, also those that are no IOB2: predictions of a model seldom keep to the scheme."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    rng = np.random.default_rng(0)
    task = TokenClassification("ner", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    chances = (0.4, 0.15, 0.15, 0.15, 0.15)
    rows = [
        {"tokens": ["staff"] * count, "label": [task.labels[one] for one in rng.choice(5, count, p=chances)]}
        for count in rng.integers(1, 12, 200)
    ]
    split = encode(task, rows, tokenizer)
    outputs = [(rng.normal(size=(len(feature["input_ids"]), 5)),) for feature in split.features]
    for (logits,), words, row in zip(outputs, split.words, rows, strict=True):
        for token, word in enumerate(words):
            if word >= 0 and rng.random() < 0.6:  # often right, so that there is something to count
                logits[token, task.labels.index(row["label"][word])] += 9
    score = task.score(split, outputs, DATA)
    said = [[task.labels[one] for one in row["prediction"]] for row in score.rows]
    known = [row["label"] for row in rows]
    assert 0.3 < score.metrics["f1"] < 0.8
    expected = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    assert score.metrics == {name: pytest.approx(scorer(known, said)) for name, scorer in expected.items()}


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("Ada's new-ish car", ["Ada", "'", "s", "new", "-", "is", "h", "car"], [0, 1, 2, 3, 4, 5, 5, 6]),
        (
            "\u6211\u7231\u5317\u4eac BMW2",
            ["\u6211", "\u7231", "\u5317", "\u4eac", "BM", "W", "2"],
            [0, 1, 2, 3, 4, 4, 4],
        ),
        ("\ud55c\uad6d\uc5b4", ["\ud55c\uad6d", "\uc5b4"], [0, 0]),  # Korean has spaces
    ],
)
def test_words_of_a_text_that_comes_in_one_piece(text, tokens, words):
    spans, at = [], 0
    for token in tokens:
        at = text.index(token, at)
        spans.append((at, at + len(token)))
        at += len(token)
    assert words_of_text(text, np.array(spans)).tolist() == words


def test_as_many_labels_as_words():
    with pytest.raises(RowProblem, match="a label for each of 2 words, found 1"):
        NER.check_row({"tokens": ["a", "b"], "label": ["O"]})


def test_ranking_is_scored_per_query_and_queries_that_say_nothing_are_left_out(tokenizer):
    rows = [
        {"query": "where", "document": "in paris", "label": "1"},
        {"query": "where", "document": "it was good", "label": "0"},
        {"query": "where", "document": "the staff", "label": "0"},
        {"query": "who", "document": "the staff", "label": 1},
        {"query": "when", "document": "bad", "label": 0.0},
        {"query": "when", "document": "good", "label": 1.0},
    ]
    split = encode(RANK, rows, tokenizer)
    assert [example["query"] for example in split.examples] == ["where", "when"]
    scores = RANK.score(split, [(np.array([v]),) for v in (0.2, 0.9, -1.0, 0.0, 1.0)], DATA)
    assert [row["mrr@10"] for row in scores.rows] == [0.5, 1.0]
    assert scores.metrics["recall@1"] == 0.5
    assert scores.metrics["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1) / 2)


def test_ndcg_and_recall_by_hand():
    found = retrieval_scores(np.array([0.0, 1.0, 0.0, 1.0]), np.array([4.0, 3.0, 2.0, 1.0]))
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert (found["mrr@10"], found["recall@1"], found["recall@10"]) == (0.5, 0.0, 1.0)


def test_embeddings_are_scored_by_cosines_or_by_retrieval(tokenizer):
    pairs = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (0.0, 2.0, 5.0)]
    task = SentenceEmbedding("stsb")
    split = encode(task, pairs, tokenizer)
    angles = (np.pi / 2, 0, np.pi / 3, 0, 0, 0)
    score = task.score(split, [(2 * np.array([np.cos(a), np.sin(a)]),) for a in angles], DATA)
    assert score.metrics["spearman"] == pytest.approx(1.0)
    assert score.rows[1]["prediction"] == pytest.approx(0.5)

    search = SentenceEmbedding("search", ("query", "document"), labelled=False)
    rows = [{"query": q, "document": d} for q, d in (("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"))]
    split = encode(search, rows, tokenizer)
    # Features: a, x, y, b, c, z: each query, and each document once.
    vectors = [[1, 0], [1, 0.1], [1, 0.2], [1, 0], [0, 1], [0, 1]]
    assert len(split.features) == len(vectors)
    found = search.score(split, [(np.array(v, float),) for v in vectors], DATA)
    assert found.metrics == {"ndcg@10": 1.0, "recall@1": pytest.approx((0.5 + 1 + 1) / 3), "recall@10": 1.0}


def test_a_question_without_an_answer_is_answered_with_nothing(tokenizer):
    task = QuestionAnswering("v2", unanswerable=True)
    context = "the tower was in paris"
    rows = [
        {"question": "where", "context": context, "answers": {"text": ["paris"], "answer_start": [17]}},
        {"question": "who", "context": context, "answers": {"text": [], "answer_start": []}},
    ]
    split = encode(task, rows, tokenizer)
    outputs = []
    for window, answered in zip(split.windows, (True, False), strict=True):
        start, end = np.zeros(len(window.spans)), np.zeros(len(window.spans))
        first, last = window.tokens_of(17, 22) if answered else (0, 0)
        start[first], end[last] = 5.0, 5.0
        outputs.append((start, end))
    score = task.score(split, outputs, DATA)
    assert [row["prediction"] for row in score.rows] == ["paris", ""]
    assert score.metrics == {"f1": 100.0, "exact_match": 100.0}
    assert squad_scores("paris", []) == (0.0, 0.0)
    columns = tokenize_training(
        task, datasets.Dataset.from_list([task.check_row(row) for row in rows]), tokenizer, DATA
    )
    assert columns["start_positions"][1] == 0
    served = task.answers(
        [ServedText((row["question"], context), [window]) for row, window in zip(rows, split.windows, strict=True)],
        [[output] for output in outputs], (), 30,
    )  # fmt: skip
    assert served["answer"] == ["paris", ""]
    assert served["no_answer_score"].tolist() == [0.0, 10.0]
