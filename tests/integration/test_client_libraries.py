# SPDX-License-Identifier: Apache-2.0
"""A served sentence encoder, asked by the client libraries that people have, over real HTTP."""

import numpy as np
import pytest
from reliability.server_process import serving

TEXTS = ["the staff was lovely", "it was good", "a dreadful phone"]


@pytest.fixture(scope="module")
def server(sentence_deployment, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(sentence_deployment, log, "--runtime", "onnxruntime", "--name", "sentences") as process:
        yield process


@pytest.fixture(scope="module")
def expected(sentence_encoder):
    """What sentence-transformers answers from the folder that was exported."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(sentence_encoder), device="cpu").encode(TEXTS)


def test_openais_client(server, expected):
    import openai

    client = openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["sentences"]
    for form in ({}, {"encoding_format": "float"}):  # without a form this client asks for base64
        reply = client.embeddings.create(model="sentences", input=TEXTS, **form)
        assert [one.index for one in reply.data] == [0, 1, 2]
        np.testing.assert_allclose([one.embedding for one in reply.data], expected, atol=1e-5)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 0
    with pytest.raises(openai.APIStatusError, match=r"text 1 has \d+ tokens") as refused:
        client.embeddings.create(model="sentences", input=["short", "long " * 100])
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="dimensions: the vectors of this model have a fixed size"):
        client.embeddings.create(model="sentences", input="x", dimensions=8)


def test_tritons_client(server, expected):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(server.address)
    (output,) = client.get_model_metadata("sentences")["outputs"]
    assert output == {"name": "sentence_embedding", "datatype": "FP32", "shape": [-1, expected.shape[1]]}
    text = triton.InferInput("text", [len(TEXTS)], "BYTES")
    text.set_data_from_numpy(np.array(TEXTS, dtype=object))
    found = client.infer("sentences", [text]).as_numpy("sentence_embedding")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    client.close()
