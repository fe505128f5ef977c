# SPDX-License-Identifier: Apache-2.0
"""``POST /rerank`` in the format of Hugging Face's text-embeddings-inference, so that its clients work unchanged.

Format: https://huggingface.github.io/text-embeddings-inference/. Scores are probabilities (the sigmoid of the logit)
unless ``raw_scores`` is true; documents are sorted, the best one first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from sparse_deploy.data.encoded import sigmoid
from sparse_deploy.data.tasks import TaskKind
from sparse_deploy.serving.embeddings_endpoint import require
from sparse_deploy.serving.infer_endpoint import InferEndpoint
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, RequestLimits, Tensor, read_object
from sparse_deploy.serving.json_request import flag, texts_tensor
from sparse_deploy.serving.service import Service

_TYPES = {400: "validation", 401: "unauthorized", 413: "validation", 404: "validation", 503: "overloaded"}


class RerankEndpoint(InferEndpoint):
    """One query and its documents."""

    def check(self, service: Service) -> None:
        """See :meth:`InferEndpoint.check`."""
        require(service, TaskKind.RANKING, "a cross-encoder with one logit", TaskKind.REGRESSION)

    def parse(self, body: bytes, headers: Mapping[bytes, bytes], limits: RequestLimits) -> InferRequest:
        """See :meth:`InferEndpoint.parse`."""
        content = read_object(body)
        query = content.get("query")
        if not isinstance(query, str):
            raise RequestError("query: expected a text")
        documents = texts_tensor("text_pair", content.get("texts"), limits, "texts")
        self._return_text = flag(content, "return_text", default=False)
        self._raw = flag(content, "raw_scores", default=False)
        queries = Tensor("text", documents.shape, [query] * documents.shape[0])
        truncate = flag(content, "truncate", default=False)
        return InferRequest(None, {"text": queries, "text_pair": documents}, truncate=truncate)

    def write(
        self, service: Service, request: InferRequest, answer: Sequence[Tensor], tokens: int
    ) -> tuple[bytes, dict[str, str]]:
        """See :meth:`InferEndpoint.write`."""
        logits = np.asarray(next(one for one in answer if one.name == "score").values)  # the task applies no sigmoid
        scores = logits if self._raw else sigmoid(logits)
        documents = request.inputs["text_pair"].values
        found: list[dict[str, Any]] = []
        for index in np.argsort(-logits, kind="stable"):
            entry: dict[str, Any] = {"index": int(index), "score": float(scores[index])}
            found.append({**entry, "text": documents[int(index)]} if self._return_text else entry)
        return orjson.dumps(found), {"content-type": "application/json"}

    def error(self, reason: str, status: int) -> bytes:
        """See :meth:`InferEndpoint.error`."""
        return orjson.dumps({"error": reason, "error_type": _TYPES.get(status, "backend")})
