# SPDX-License-Identifier: Apache-2.0
"""JSON bodies of the paths with APIs other than OIP."""

from typing import Any

from sparse_deploy.serving.inference_protocol import RequestError, RequestLimits, Tensor


def texts_tensor(name: str, values: object, limits: RequestLimits, place: str) -> Tensor:
    """A list of texts as the tensor of an ``infer`` request.

    Args:
        name: name of the tensor.
        values: the list.
        limits: limits of the server.
        place: key of the list in the body, for messages.

    Raises:
        RequestError: 400, not a list of texts; 413, a limit is exceeded.
    """
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise RequestError(f"{place}: expected a text or a list of at least one text")
    if len(values) > limits.rows:
        raise RequestError(f"{place}: a request may have {limits.rows} texts here, this one has {len(values)}", 413)
    if sum(map(len, values)) > limits.characters:
        raise RequestError(f"{place}: the texts of a request may have {limits.characters} characters here", 413)
    return Tensor(name, (len(values),), values)


def flag(content: dict[str, Any], key: str, *, default: bool) -> bool:
    """A boolean of the body.

    Raises:
        RequestError: 400, it is not a boolean.
    """
    value = content.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"{key}: expected true or false")
    return value
