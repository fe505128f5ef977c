# SPDX-License-Identifier: Apache-2.0
"""Conformance tests of the server, run over uvicorn and over Ray Serve.

A subclass defines a fixture ``server`` with ``address``, ``name``, ``request`` and ``infer``: a text classification
with two labels, called ``tiny``, of the deployment that fixture ``tiny_deployment`` makes.
"""

import numpy as np
import pytest
from reliability.server_process import integers, texts

from sparse_deploy.data.batches import pad_batch
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.serving.text import TextEncoder

SENTENCES = ["a gripping, funny and humane film", "a dull mess", "it keeps every zero of its weights until the end"]


class Conformance:
    def test_health_and_metadata(self, server):
        assert server.request("GET", "/v2/health/live").json == {"live": True}
        assert server.request("GET", "/v2/health/ready").json == {"ready": True}
        found = server.request("GET", "/v2").json
        assert found["name"] == "sparse-deploy"
        assert found["extensions"] == ["binary_tensor_data"]
        assert server.request("GET", f"/v2/models/{server.name}/ready").json == {"name": server.name, "ready": True}

    @pytest.mark.parametrize("version", ["", "/versions/1"])
    def test_model_metadata(self, server, version):
        found = server.request("GET", f"/v2/models/{server.name}{version}").json
        assert (found["name"], found["versions"]) == (server.name, ["1"])
        inputs = {tensor["name"]: tensor for tensor in found["inputs"]}
        assert inputs["text"] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
        assert inputs["input_ids"] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}

    def test_texts_are_answered_as_the_runtime_answers_them(self, server, tiny_deployment):
        features, _ = TextEncoder(tiny_deployment, 32).encode(SENTENCES)
        session = get_runtime("sparse").open(tiny_deployment, "int8", 1)
        expected = np.stack([session.run(pad_batch([feature]))[0][0] for feature in features])
        reply = server.infer(texts("text", *SENTENCES), id="abc")
        assert reply.json["id"] == "abc"
        found = reply.outputs
        np.testing.assert_allclose(np.reshape(found["logits"], (3, 2)), expected, atol=2e-2)
        assert found["label"] == [f"LABEL_{index}" for index in expected.argmax(axis=1)]
        probabilities = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found["score"], probabilities.max(axis=1), atol=1e-2)

    def test_tensors_are_answered_like_their_text(self, server, tiny_deployment):
        (feature,), _ = TextEncoder(tiny_deployment, 32).encode(SENTENCES[:1])
        by_text = server.infer(texts("text", SENTENCES[0])).outputs["logits"]
        padded = [*feature["input_ids"].tolist(), 0, 0]
        mask = [*feature["attention_mask"].tolist(), 0, 0]
        by_tensors = server.infer(integers("input_ids", padded), integers("attention_mask", mask)).outputs["logits"]
        np.testing.assert_allclose(by_tensors, by_text, atol=2e-2)

    def test_pairs_of_texts(self, server):
        alone = server.infer(texts("text", "one")).outputs["logits"]
        pair = server.infer(texts("text", "one"), texts("text_pair", "two")).outputs["logits"]
        assert alone != pair

    def test_only_the_requested_outputs_are_returned(self, server):
        assert list(server.infer(texts("text", "x"), outputs=[{"name": "score"}]).outputs) == ["score"]

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ([texts("nope", "x")], "expected inputs text and text_pair as texts"),
            ([texts("text", "x"), integers("attention_mask", [1])], "expected inputs"),
            ([integers("text", [1])], "text: expected datatype BYTES"),
            ([texts("input_ids", "x")], "input_ids: expected"),
            ([texts("text", "x"), texts("text_pair", "x", "y")], "text_pair: expected 1 texts"),
            ([integers("input_ids", [1] * 129)], "at most 128 tokens"),
            ([integers("input_ids", [10**6])], "input_ids: expected values of 0 to"),
            ([integers("input_ids", [-1])], "input_ids: expected values of 0 to"),
            ([integers("input_ids", [1]), integers("attention_mask", [0])], "a row has no token"),
            (
                [integers("input_ids", [1]), integers("attention_mask", [2])],
                "attention_mask: expected values",
            ),
            ([integers("input_ids", [1, 1]), integers("token_type_ids", [0])], "token_type_ids: expected shape"),
        ],
    )
    def test_wrong_inputs_get_a_reason(self, server, inputs, message):
        reply = server.infer(*inputs)
        assert reply.status == 400
        assert message in reply.json["error"]

    def test_too_many_rows(self, server):
        assert server.infer(texts("text", *["x"] * 300)).status == 413

    def test_too_large_a_body(self, server):
        reply = server.request("POST", f"/v2/models/{server.name}/infer", b" " * (5 * 2**20))
        assert reply.status == 413

    def test_deep_json_is_refused(self, server):
        body = b'{"inputs":' + b"[" * 200_000
        assert server.request("POST", f"/v2/models/{server.name}/infer", body).status == 400

    def test_compressed_bodies_are_refused(self, server):
        reply = server.request("POST", f"/v2/models/{server.name}/infer", b"x", {"Content-Encoding": "gzip"})
        assert reply.status == 415

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/v2/models/nope", 404),
            ("GET", "/v2/models/tiny/versions/2", 404),
            ("POST", "/v2/models/nope/infer", 404),
            ("GET", "/v2/models/tiny/infer", 405),
            ("POST", "/v2/repository/models/tiny/load", 404),
            ("GET", "/v2/../../etc/passwd", 404),
        ],
    )
    def test_unknown_routes_are_refused(self, server, method, path, status):
        reply = server.request(method, path)
        assert reply.status == status
        assert isinstance(reply.json["error"], str)

    def test_metrics_count_requests(self, server):
        server.infer(texts("text", "x"))
        text = server.request("GET", "/metrics").body.decode()
        series = ('requests_total{code="200"', 'request_seconds_bucket{le="', "batch_rows_sum", "batch_padding_sum")
        for name in (*series, "queue_rows"):
            assert f"sparse_deploy_{name}" in text

    def test_a_triton_client(self, server, tiny_deployment):
        import tritonclient.http as triton

        client = triton.InferenceServerClient(server.address)
        assert client.is_server_live()
        assert client.is_model_ready(server.name)
        assert client.get_model_metadata(server.name)["platform"] == "onnx_onnxv1"
        values = np.array(SENTENCES, dtype=object)
        expected = server.infer(texts("text", *SENTENCES)).outputs
        for binary in (True, False):
            tensor = triton.InferInput("text", [3], "BYTES")
            tensor.set_data_from_numpy(values, binary_data=binary)
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
            found = client.infer(server.name, [tensor], outputs=outputs, request_id="7")
            assert [value.decode() if binary else value for value in found.as_numpy("label")] == expected["label"]
            np.testing.assert_allclose(found.as_numpy("probabilities").ravel(), expected["probabilities"], atol=1e-2)
        client.close()

    def test_concurrent_requests_get_their_own_answers(self, server):
        from concurrent.futures import ThreadPoolExecutor

        sentences = [f"{SENTENCES[index % 3]} {'very ' * (index % 7)}good" for index in range(60)]
        alone = [server.infer(texts("text", sentence)).outputs["logits"] for sentence in sentences[:21]]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda text: server.infer(texts("text", text)).outputs["logits"], sentences))
        for index, logits in enumerate(together):
            np.testing.assert_allclose(logits, alone[index % 21], atol=2e-2)
