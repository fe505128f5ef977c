# SPDX-License-Identifier: Apache-2.0
"""Limit of the bytes of all request bodies in memory, for any number of connections."""

from sparse_deploy.serving.inference_protocol import RequestError


class BodyBytes:
    """The bytes of all requests that are being read, queued or computed.

    Texts and tensors of a request take a small multiple of its body, so this also limits them.

    Args:
        limit: limit of the total.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def share(self) -> "ByteShare":
        """The part of one request, with no bytes yet."""
        return ByteShare(self)


class ByteShare:
    """The part of one request."""

    def __init__(self, whole: BodyBytes) -> None:
        self._whole = whole
        self._taken = 0

    def take(self, count: int) -> None:
        """Add bytes.

        Raises:
            RequestError: 503, the limit of all requests is reached.
        """
        if self._whole.taken + count > self._whole.limit:
            raise RequestError(f"requests of {self._whole.taken} bytes are in memory; retry", 503, retry_after=1)
        self._whole.taken += count
        self._taken += count

    def release(self) -> None:
        """Release the bytes of a request after its response."""
        self._whole.taken -= self._taken
        self._taken = 0
