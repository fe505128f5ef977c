# SPDX-License-Identifier: Apache-2.0
"""Checks that a model can be exported, before the training, on a small model of the same class and config."""

import copy

import torch
from transformers import PreTrainedModel

from sparse_deploy.architectures import architecture_of
from sparse_deploy.errors import ExportError
from sparse_deploy.export.exporter import ExportableModel, example_inputs, quiet, to_onnx

# The first two layers include every kind of layer of a config: ModernBERT's global and local attention, and
# DeBERTa's convolution after the first.
_LAYERS = 2
# Cache of exported classes and configs in this process, for sweeps and tests.
_SHOWN: set[str] = set()


def check_exportable(model: PreTrainedModel, names: tuple[str, ...], opset: int) -> None:
    """Export a model of the same class and config, with two layers and random weights.

    Args:
        model: the model to train.
        names: names of its outputs.
        opset: ONNX operator set.

    Raises:
        ExportError: the model can't be exported; the message has its class.
    """
    config = copy.deepcopy(model.config)
    architecture = architecture_of(config.to_dict())
    layers = getattr(config, architecture.layers, None)
    if isinstance(layers, int) and layers > _LAYERS:
        setattr(config, architecture.layers, _LAYERS)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:_LAYERS]
    key = f"{type(model).__name__} {names} {opset} {config.to_json_string(use_diff=False)}"
    if key in _SHOWN:
        return
    state = torch.get_rng_state()
    try:
        with quiet():
            config._attn_implementation = "eager"
            small = ExportableModel(type(model)(config).eval(), names).eval()
        to_onnx(small, example_inputs(small.input_names), names, opset)
    except ExportError as error:
        raise ExportError(f"{type(model).__name__} can't be exported, so it is not trained: {error}") from error
    finally:
        torch.set_rng_state(state)
    _SHOWN.add(key)
