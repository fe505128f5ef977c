# SPDX-License-Identifier: Apache-2.0
"""Scores of one query's ranking of documents."""

import numpy as np
import numpy.typing as npt

from sparse_deploy.gate.metric import Metric, PairedTest, by_name

_DEPTH = 10
RETRIEVAL_METRICS = by_name(*(Metric(name, PairedTest.MEAN) for name in ("ndcg@10", "mrr@10", "recall@1", "recall@10")))


def retrieval_scores(relevance: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> dict[str, float]:
    """nDCG, reciprocal rank and recall of one query.

    Args:
        relevance: ``[documents]``, 0 for irrelevant documents; at least one value is above 0.
        scores: ``[documents]``, the ranking scores; with equal scores the earlier document is first.

    Returns:
        Each 0 to 1. The gain of nDCG is the relevance, the discount is ``1 / log2(rank + 1)`` (Järvelin and
        Kekäläinen 2002).
    """
    ranked = relevance[np.argsort(-scores, kind="stable")]
    discount = 1 / np.log2(np.arange(2, _DEPTH + 2))
    gain, ideal = (float((v[:_DEPTH] * discount[: len(v[:_DEPTH])]).sum()) for v in (ranked, -np.sort(-relevance)))
    hits = np.flatnonzero(ranked[:_DEPTH] > 0)
    relevant = int((relevance > 0).sum())
    return {
        "ndcg@10": gain / ideal,
        "mrr@10": 1 / (int(hits[0]) + 1) if hits.size else 0.0,
        "recall@1": float((ranked[:1] > 0).sum()) / relevant,
        "recall@10": len(hits) / relevant,
    }
