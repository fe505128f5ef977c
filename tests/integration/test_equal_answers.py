# SPDX-License-Identifier: Apache-2.0
"""Static INT8 in OpenVINO: what a batch adds to a text's padding changes no bit of its answer."""

import gzip
import json

import numpy as np

from sparse_deploy.data.batches import pad_batch
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.serving.choice import length_multiple
from sparse_deploy.serving.text import TextEncoder


def test_more_padding_changes_no_answer_between_multiples_of_a_vector(learnt):
    deployment = learnt / "deployment"
    multiple = length_multiple("openvino", deployment, "int8")
    assert multiple == 16
    assert length_multiple("openvino", deployment, "fp32") == 1
    with gzip.open(learnt / "data" / "demo" / "validation.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = [json.loads(line)["sentence"] for line in stream][:64]
    features, _ = TextEncoder(deployment, 32).encode(texts)
    lengths = [-(-len(feature["input_ids"]) // multiple) * multiple for feature in features]
    assert len(set(lengths)) > 1
    session = get_runtime("openvino").open(deployment, "int8", 1)
    pairs = zip(features, lengths, strict=True)
    alone = np.concatenate([session.run(pad_batch([feature], 0, length))[0] for feature, length in pairs])
    for length in (32, 128):
        np.testing.assert_array_equal(session.run(pad_batch(features, 0, length))[0], alone)
