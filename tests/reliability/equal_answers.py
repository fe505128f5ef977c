# SPDX-License-Identifier: Apache-2.0
"""Compares answers to many concurrent clients with answers to single requests: batching must not change them."""

import http.client
import itertools
import json
import random
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from reliability.server_process import ServerProcess, texts

# One of this many requests is sent by a client that disconnects at once.
_LEAVING = 20


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        answers: number of compared answers.
        left: requests whose client disconnected.
        largest: largest difference of a logit.
        flipped: answers with a different label.
        other: answers with a status other than 200.
    """

    answers: int
    left: int
    largest: float
    flipped: int
    other: int


def compare(server: ServerProcess, sentences: Sequence[str], answers: int, clients: int) -> Comparison:
    """Send each text alone, then texts in random order from many concurrent clients; compare the answers."""
    alone = {text: _logits(server.infer(texts("text", text)).body) for text in sentences}
    numbers = itertools.count()
    lock, found = threading.Lock(), {"answers": 0, "left": 0, "largest": 0.0, "flipped": 0, "other": 0}

    def client(seed: int) -> None:
        choose = random.Random(seed)
        connection = http.client.HTTPConnection(server.address, timeout=60)
        while next(numbers) < answers * _LEAVING // (_LEAVING - 1):
            text = choose.choice(sentences)
            body = json.dumps({"inputs": [texts("text", text)]})
            connection.request("POST", f"/v2/models/{server.name}/infer", body)
            if choose.randrange(_LEAVING) == 0:
                assert connection.sock is not None
                connection.sock.shutdown(socket.SHUT_RDWR)
                connection.close()
                with lock:
                    found["left"] += 1
                continue
            response = connection.getresponse()
            content = response.read()
            with lock:
                found["answers"] += 1
                if response.status != 200:
                    found["other"] += 1
                    continue
                logits = _logits(content)
                found["largest"] = max(found["largest"], float(np.abs(logits - alone[text]).max()))
                found["flipped"] += int(logits.argmax() != alone[text].argmax())
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return Comparison(**found)  # type: ignore[arg-type]


def _logits(body: bytes) -> np.ndarray:
    outputs = {tensor["name"]: tensor["data"] for tensor in json.loads(body)["outputs"]}
    return np.array(outputs["logits"], dtype=np.float32)
