# SPDX-License-Identifier: Apache-2.0
"""Bodies of the Open Inference Protocol: reading, refusals, writing."""

import json
import struct

import numpy as np
import pytest

from sparse_deploy.serving.inference_protocol import (
    HEADER_LENGTH,
    RequestError,
    RequestLimits,
    Tensor,
    build_response,
    parse_request,
)

TEXT = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
IDS = {"name": "input_ids", "datatype": "INT64", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}


def body(*inputs, **content) -> bytes:
    return json.dumps({"inputs": list(inputs), **content}).encode()


def with_bytes(entry: dict, data: bytes, **content) -> tuple[bytes, str]:
    entry = {key: value for key, value in entry.items() if key != "data"}
    head = body({**entry, "parameters": {"binary_data_size": len(data)}}, **content)
    return head + data, str(len(head))


class TestReading:
    def test_texts_and_integers(self):
        request = parse_request(body(TEXT, IDS, id="7"), None)
        assert request.id == "7"
        assert request.inputs["text"].values == ["a", "b"]
        np.testing.assert_array_equal(request.inputs["input_ids"].values, [[1, 2, 3], [4, 5, 6]])

    def test_data_may_be_nested_like_its_shape(self):
        request = parse_request(body({**IDS, "data": [[1, 2, 3], [4, 5, 6]]}), None)
        np.testing.assert_array_equal(request.inputs["input_ids"].values, [[1, 2, 3], [4, 5, 6]])

    def test_integers_as_bytes(self):
        values = np.arange(6, dtype="<i8").reshape(2, 3)
        request = parse_request(*with_bytes(IDS, values.tobytes()))
        np.testing.assert_array_equal(request.inputs["input_ids"].values, values)

    def test_int32_becomes_int64(self):
        values = np.arange(6, dtype="<i4").reshape(2, 3)
        found = parse_request(*with_bytes({**IDS, "datatype": "INT32"}, values.tobytes())).inputs["input_ids"].values
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, values)

    def test_texts_as_bytes(self):
        texts = ["ä", ""]
        data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
        assert parse_request(*with_bytes(TEXT, data)).inputs["text"].values == texts

    def test_wanted_outputs_and_their_form(self):
        outputs = [{"name": "label"}, {"name": "score", "parameters": {"binary_data": False}}]
        request = parse_request(body(TEXT, outputs=outputs, parameters={"binary_data_output": True}), None)
        assert request.outputs == {"label": True, "score": False}

    def test_timeout_is_in_microseconds(self):
        assert parse_request(body(TEXT, parameters={"timeout": 2500}), None).timeout_ms == 2.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"inputs": [NaN]}', "is not JSON"),
        (b'{"inputs": [[' + b"[" * 100_000, "is not JSON"),
        (b"[]", "expected a JSON object, got a list"),
        (b"{}", "inputs: expected a list of 1 to 16 tensors, got nothing"),
        (body(), "inputs: expected a list of 1 to 16 tensors, got 0"),
        (body(*[TEXT] * 17), "got 17"),
        (body(3), r"inputs\[0\]: expected an object, got 3"),
        (body(TEXT, TEXT), "'text' is given twice"),
        (body({**TEXT, "name": ""}), "expected a name"),
        (body({**TEXT, "name": "x" * 300}), "expected a name"),
        (body({**TEXT, "name": None}), "expected a name .* got nothing"),
        (body({**TEXT, "datatype": "FP32"}), "expected datatype INT64 or BYTES, got 'FP32'"),
        (body({**TEXT, "datatype": ["BYTES"]}), "expected datatype"),
        (body({**TEXT, "shape": [3]}), r"shape \[3\] takes 3 values, got 2"),
        (body({**TEXT, "shape": []}), "expected a shape of 1 or 2 dimensions, got 0"),
        (body({**TEXT, "shape": [1, 1, 2]}), "got 3 dimensions"),
        (body({**TEXT, "shape": [-1]}), "expected positive dimensions"),
        (body({**TEXT, "shape": [True]}), "expected positive dimensions"),
        (body({**TEXT, "shape": [2.0]}), "expected positive dimensions"),
        (body({**TEXT, "shape": [2**40]}), "expected positive dimensions"),
        (body({**TEXT, "data": "ab"}), "expected data as a list, got a text"),
        (body({**TEXT, "data": ["a", 1]}), "expected texts, got 1"),
        (body({**IDS, "data": [1, 2, 3, 4, 5, 6.5]}), "expected integers, got 6.5"),
        (body({**IDS, "data": [1, 2, 3, 4, 5, True]}), "expected integers, got true or false"),
        (body({**IDS, "data": [1, 2, 3, 4, 5, 2**63]}), "outside of INT64"),
        (body({**IDS, "data": [[1, 2, 3], [4, 5]]}), "expected 2 rows of 3 values"),
        (body({**IDS, "data": [[1, 2, 3], 4]}), "expected 2 rows of 3 values"),
        (body(TEXT, id=5), "id: expected a text"),
        (body(TEXT, outputs=[]), "outputs: expected a list"),
        (body(TEXT, outputs=[{"name": "a"}, {"name": "a"}]), "'a' is given twice"),
        (body(TEXT, parameters=[]), "expected parameters as an object"),
        (body(TEXT, parameters={"timeout": -1}), "timeout: expected a positive number"),
        (body(TEXT, parameters={"binary_data_output": 1}), "expected binary_data_output true or false"),
    ],
)
def test_refused(content, message):
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(content, None)
    assert caught.value.status == 400
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("entry", "data", "message"),
    [
        (IDS, b"\0" * 47, "6 values of INT64 take 48 bytes, got 47"),
        (TEXT, struct.pack("<I", 5) + b"abc", "element 0 reaches beyond"),
        (TEXT, struct.pack("<I", 1) + b"a", "expected 2 elements"),
        (TEXT, struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 0), "element 0 is not UTF-8"),
        (TEXT, struct.pack("<I", 0) * 3, "expected 2 elements in 12 bytes, got 2 in 8"),
    ],
    ids=["short", "beyond", "too few", "no UTF-8", "too many"],
)
def test_refused_bytes(entry, data, message):
    with pytest.raises(RequestError, match=message):
        parse_request(*with_bytes(entry, data))


@pytest.mark.parametrize(
    ("entry", "data", "message"),
    [
        ({**TEXT, "shape": [2**31 - 1]}, b"", "may have 4 rows"),
        ({**TEXT, "shape": [1000]}, b"\0" * 4000, "may have 4 rows"),
        ({**TEXT, "shape": [1, 1000]}, b"\0" * 4000, "may have 4 rows"),
        ({**IDS, "shape": [5, 1]}, b"\0" * 40, "may have 4 rows"),
        ({**IDS, "shape": [1, 100]}, b"\0" * 800, "may have 4 rows"),
        ({**TEXT, "shape": [1]}, struct.pack("<I", 31) + b"." * 31, "may have 30 characters; got 31"),
    ],
)
def test_more_than_a_request_may_hold_is_refused_before_work_is_done(entry, data, message):
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(*with_bytes(entry, data), RequestLimits(rows=4, tokens=8, characters=30))
    assert caught.value.status == 413


@pytest.mark.parametrize("length", ["-1", "9999", "x", "", "1" * 400, "9" * 5000])
def test_refused_header_length(length):
    with pytest.raises(RequestError, match=HEADER_LENGTH):
        parse_request(body(TEXT), length)


def test_bytes_that_no_input_claims():
    head = body(TEXT)
    with pytest.raises(RequestError, match="3 bytes follow the JSON"):
        parse_request(head + b"abc", str(len(head)))


class TestWriting:
    OUTPUTS = (Tensor("label", (2,), ["ä", "b"]), Tensor("score", (2, 1), np.array([[0.5], [1.5]], dtype=np.float32)))

    def write(self, **content):
        return build_response(parse_request(body(TEXT, **content), None), "m", "1", self.OUTPUTS)

    def test_all_outputs_as_json(self):
        content, headers = self.write(id="x")
        assert headers == {"content-type": "application/json"}
        assert json.loads(content) == {
            "model_name": "m",
            "model_version": "1",
            "id": "x",
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["ä", "b"]},
                {"name": "score", "datatype": "FP32", "shape": [2, 1], "data": [0.5, 1.5]},
            ],
        }

    def test_chosen_outputs_in_the_order_asked_for(self):
        content, _ = self.write(outputs=[{"name": "score"}, {"name": "label"}])
        assert [tensor["name"] for tensor in json.loads(content)["outputs"]] == ["score", "label"]

    def test_bytes_behind_the_json(self):
        content, headers = self.write(parameters={"binary_data_output": True})
        length = int(headers[HEADER_LENGTH])
        sizes = [tensor["parameters"]["binary_data_size"] for tensor in json.loads(content[:length])["outputs"]]
        assert content[length : length + sizes[0]] == struct.pack("<I", 2) + "ä".encode() + struct.pack("<I", 1) + b"b"
        np.testing.assert_array_equal(np.frombuffer(content[length + sizes[0] :], "<f4"), [0.5, 1.5])
        assert sum(sizes) == len(content) - length

    def test_an_output_that_there_is_not(self):
        with pytest.raises(RequestError, match="expected names of label, score; got 'nope'"):
            self.write(outputs=[{"name": "nope"}])
