# SPDX-License-Identifier: Apache-2.0
"""The computation of tools/check_wheels.sh with an installed wheel.

``make FOLDER`` needs onnx and scipy: it writes a sparse file, inputs, and the answer of the operators in numpy.
``run FOLDER`` needs the wheel and its dependencies: it runs the file in ONNX Runtime and compares the answers.
"""

import sys
from pathlib import Path

import numpy as np

_HIDDEN, _INTERMEDIATE, _HEADS = 64, 128, 4
# Largest error of the answer relative to its norm: FP32 rounds differently in numpy, and a value may get the next INT8
# step. A wrong weight or layout gives an error as large as the answer.
_LARGEST_ERROR = 0.03


def make(folder: Path) -> None:
    """Write ``model_sparse.onnx``, ``inputs.npz`` and ``expected.npy``."""
    root = Path(__file__).parents[1]
    sys.path[:0] = [str(root), str(root / "tests")]
    import onnx
    from sparse_operators import layer_constants, layer_model

    from sparse_deploy.kernels.reference import ReferenceSession

    layers = [layer_constants(_HIDDEN, _INTERMEDIATE, seed=seed) for seed in (1, 2)]
    onnx.save(layer_model(layers, hidden=_HIDDEN, heads=_HEADS), folder / "model_sparse.onnx")
    mask = np.ones((3, 9), dtype=np.int64)
    mask[1, 5:] = 0
    x = np.random.default_rng(0).normal(size=(*mask.shape, _HIDDEN)).astype(np.float32)
    inputs: dict[str, np.ndarray] = {"X": x, "mask": mask}
    np.savez(folder / "inputs.npz", X=x, mask=mask)
    np.save(folder / "expected.npy", ReferenceSession(folder / "model_sparse.onnx").run(inputs)[0])


def run(folder: Path) -> None:
    """Open the file in ONNX Runtime; exit with an error if the answer differs."""
    import onnxruntime

    import sparse_deploy
    from sparse_deploy.kernels import loader
    from sparse_deploy.runtimes import sparse_session

    inputs = dict(np.load(folder / "inputs.npz"))
    (found,) = sparse_session(folder / "model_sparse.onnx").run(None, inputs)
    kept = inputs["mask"].astype(bool)
    expected = np.load(folder / "expected.npy")[kept]
    error = np.linalg.norm(found[kept] - expected) / np.linalg.norm(expected)
    if not error < _LARGEST_ERROR:
        sys.exit(f"check_wheels: expected an error of at most {_LARGEST_ERROR:.0%} against numpy, found {error:.1%}")
    chosen = loader.instruction_set(loader.ONNXRUNTIME).name
    print(
        f"check_wheels: sparse-deploy {sparse_deploy.__version__} in Python {sys.version.split()[0]}, ONNX Runtime "
        f"{onnxruntime.__version__}: the sparse file's answer equals numpy's ({chosen}, error {error:.1%})"
    )


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](Path(sys.argv[2]))
