# SPDX-License-Identifier: Apache-2.0
"""Opening ``model_sparse.onnx``: a stock session for Python users, and clear words where it can't be."""

import numpy as np
import onnxruntime
import pytest
from sparse_operators import linear_constants, linear_model

from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from sparse_deploy.runtimes import get_runtime, sparse_session


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model_sparse.onnx"
    path.write_bytes(linear_model(linear_constants(6, 10)).SerializeToString())
    return path


def test_a_stock_session_with_the_callers_options(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for session in (sparse_session(model), sparse_session(str(model), options)):
        assert type(session) is onnxruntime.InferenceSession
        (answer,) = session.run(None, {"X": np.ones((1, 3, 10), np.float32)})
        assert answer.shape == (1, 3, 6)
    assert options.intra_op_num_threads == 1


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file; expected model_sparse\.onnx"):
        sparse_session(tmp_path / "model_sparse.onnx")


def test_a_damaged_file(model):
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="refused unopened"):
        sparse_session(model)


def test_without_the_compiled_operators(model, without_operators):
    with pytest.raises(RuntimeUnavailableError, match="no such file"):
        sparse_session(model)
    runtime = get_runtime("sparse")
    assert not runtime.available()
    with pytest.raises(RuntimeUnavailableError, match="no such file"):
        runtime.version()


def test_the_version_names_the_instruction_set():
    version, instruction_set = get_runtime("sparse").version().split()
    assert version == onnxruntime.__version__
    assert instruction_set.isidentifier()
