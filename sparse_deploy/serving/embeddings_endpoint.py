# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/embeddings`` in the format of OpenAI's API, so that its clients work unchanged.

Format: https://platform.openai.com/docs/api-reference/embeddings/create. ``truncate`` is an extension: it truncates a
text that is too long instead of refusing it.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from sparse_deploy.data.tasks import TaskKind
from sparse_deploy.serving.infer_endpoint import InferEndpoint
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, RequestLimits, Tensor, read_object
from sparse_deploy.serving.json_request import flag, texts_tensor
from sparse_deploy.serving.service import Service

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
}


class EmbeddingsEndpoint(InferEndpoint):
    """One request for vectors."""

    def check(self, service: Service) -> None:
        """See :meth:`InferEndpoint.check`."""
        require(service, TaskKind.EMBEDDING, "a sentence encoder")

    def parse(self, body: bytes, headers: Mapping[bytes, bytes], limits: RequestLimits) -> InferRequest:
        """See :meth:`InferEndpoint.parse`."""
        content = read_object(body)
        given = content.get("input")
        if isinstance(given, list) and given and all(type(one) is int for one in given):
            raise RequestError("input: expected a text or a list of texts; lists of token ids are not supported")
        texts = texts_tensor("text", [given] if isinstance(given, str) else given, limits, "input")
        form = content.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise RequestError(f"encoding_format: expected float or base64, got {form!r:.40}")
        if content.get("dimensions") is not None:
            raise RequestError("dimensions: the vectors of this model have a fixed size; omit dimensions")
        self._base64 = form == "base64"
        return InferRequest(None, {"text": texts}, truncate=flag(content, "truncate", default=False))

    def write(
        self, service: Service, request: InferRequest, answer: Sequence[Tensor], tokens: int
    ) -> tuple[bytes, dict[str, str]]:
        """See :meth:`InferEndpoint.write`."""
        vectors = np.asarray(answer[0].values, dtype="<f4")
        data = [
            {
                "object": "embedding",
                "index": number,
                "embedding": base64.b64encode(vector.tobytes()).decode() if self._base64 else vector.tolist(),
            }
            for number, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        body = {"object": "list", "data": data, "model": service.model.name, "usage": usage}
        return orjson.dumps(body), {"content-type": "application/json"}

    def error(self, reason: str, status: int) -> bytes:
        """See :meth:`InferEndpoint.error`."""
        kind = _TYPES.get(status, "server_error")
        return orjson.dumps({"error": {"message": reason, "type": kind, "param": None, "code": None}})


def require(service: Service, kind: TaskKind, what: str, *others: TaskKind) -> None:
    """Refuse a path that this model does not support.

    Raises:
        RequestError: 404.
    """
    found = service.model.task.kind
    if found not in (kind, *others):
        raise RequestError(f"this path needs {what}, {service.model.name} is {found.value}", 404)


def models(service: Service) -> dict[str, Any]:
    """``GET /v1/models``."""
    return {"object": "list", "data": [{"id": service.model.name, "object": "model", "owned_by": "sparse-deploy"}]}
