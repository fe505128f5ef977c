# SPDX-License-Identifier: Apache-2.0
"""Second-order pruning of an encoder, layer by layer, with the inputs from the already pruned layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparse_deploy.errors import DataError
from sparse_deploy.pruning.encoder_walk import EncoderWalk, LinearGroup
from sparse_deploy.pruning.hessian import Curvature, HessianSum, factorize
from sparse_deploy.pruning.method import Progress, Pruned, PruningPlan, TokenBatch, require_tiles
from sparse_deploy.pruning.solver import prune_matrix
from sparse_deploy.sparsity.pattern import BoolArray


class SecondOrderPruning:
    """Selects zeros and adjusts the other weights so that the output of each layer on the text changes least.

    See :class:`sparse_deploy.pruning.method.PruningMethod`. Additional memory: the hidden states of the text
    before one layer, and one Hessian.
    """

    name = "second-order"
    needs_text = True

    @torch.no_grad()
    def prune(
        self,
        model: nn.Module,
        plan: PruningPlan,
        batches: Sequence[TokenBatch],
        progress: Progress = lambda message, share: None,
    ) -> Pruned:
        """See :meth:`sparse_deploy.pruning.method.PruningMethod.prune`."""
        parameters = dict(model.named_parameters())
        for name in plan.shares:
            rows, columns = parameters[name].shape
            require_tiles(name, (rows, columns), plan.pattern)
        progress("running the text through the dense model", 0.0)
        walk = EncoderWalk(model, batches)
        names: dict[nn.Module, str] = {
            module: f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in plan.shares
        }
        check_enough_text(walk.tokens, sum(len(batch["attention_mask"]) for batch in batches), names)
        masks: dict[str, BoolArray] = {}
        errors: dict[str, float] = {}
        damping: dict[str, float] = {}
        for depth, layer in enumerate(walk.layers):
            groups = walk.groups(depth, names)
            for number, group in enumerate(groups):
                progress(layer, (depth + number / len(groups)) / len(walk.layers))
                curvature = curvature_of(walk, depth, group)
                for name, linear in group.linears.items():
                    found = prune_matrix(linear.weight.float(), curvature, plan.pattern, plan.shares[name])
                    linear.weight.copy_(found.weight)
                    masks[name], errors[name] = found.zeros.numpy(), found.error
                    damping[name] = curvature.damping
            walk.advance(depth)
        details: dict[str, Any] = {
            "tokens": walk.tokens,
            "output_error": errors,
            "damping": max(damping.values(), default=0.0),
        }
        return Pruned({name: masks[name] for name in plan.shares if name in masks}, details)


def curvature_of(walk: EncoderWalk, depth: int, group: LinearGroup) -> Curvature:
    """The curvature of a group's inputs on the text, with the current weights of the earlier layers."""
    name, linear = next(iter(group.linears.items()))
    total = HessianSum(group.features)
    for inputs in walk.inputs(depth, linear):
        total.add(inputs.float())
    return factorize(total.mean(), name)


def check_enough_text(tokens: int, rows: int, names: dict[nn.Module, str]) -> None:
    """Refuse a text that is too short for the Hessian of the widest matrix.

    Raises:
        DataError: the text has fewer tokens than the matrix has columns.
    """
    widest = max((module.in_features for module in names if isinstance(module, nn.Linear)), default=0)
    if tokens < widest:
        raise DataError(
            f"text: expected at least {widest} tokens, as many as the widest matrix has inputs, found {tokens} in "
            f"{rows} texts; give at least {-(-widest * rows // max(tokens, 1))} texts of this length (512 to 1024 are "
            f"usual)"
        )
