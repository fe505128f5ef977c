# SPDX-License-Identifier: Apache-2.0
"""Measure the effect of zeros in each matrix on the output of the model, and their gain."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from sparse_deploy.pruning.allocation import Option
from sparse_deploy.pruning.answers import answers_of, compare_answers, has_head
from sparse_deploy.pruning.encoder_walk import EncoderWalk
from sparse_deploy.pruning.method import Progress, TokenBatch
from sparse_deploy.pruning.second_order import check_enough_text, curvature_of
from sparse_deploy.pruning.solver import prune_matrix
from sparse_deploy.sparsity.pattern import PatternKind, SparsityPattern

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Share at which each matrix alone is pruned in the model; other shares follow from the change of its own output.
_PROBED = 0.6
CostModel = Callable[[tuple[int, int], SparsityPattern, float], float]


@torch.no_grad()
def measure_options(
    model: nn.Module,
    names: Sequence[str],
    pattern: SparsityPattern,
    batches: Sequence[TokenBatch],
    probes: Sequence[TokenBatch],
    cost: CostModel,
    progress: Progress = lambda message, share: None,
) -> dict[str, list[Option]]:
    """Options of each matrix, the dense option first. The model is not changed.

    Each matrix is pruned alone, at each share, on its inputs in the dense model. The harm at one share is the
    divergence of the model's outputs (:class:`sparse_deploy.pruning.answers.AnswerChange`); the harm at other shares is
    this divergence, scaled by the squared change of the matrix's own output.

    Args:
        model: a dense model, or one with zeros that are kept.
        names: matrices to prune.
        pattern: pattern of the zeros; N:M has one share.
        batches: text for the Hessians.
        probes: text for the outputs.
        cost: predicted time of a product per weight.
        progress: called with a message and the share of the work that is done.
    """
    shares = (1 - pattern.n / pattern.m,) if pattern.kind is PatternKind.N_M else SHARES
    probed = shares[0] if len(shares) == 1 else _PROBED
    walk = EncoderWalk(model, batches)
    modules: dict[nn.Module, str] = {
        module: f"{name}.weight" for name, module in model.named_modules() if f"{name}.weight" in set(names)
    }
    check_enough_text(walk.tokens, sum(len(batch["attention_mask"]) for batch in batches), modules)
    head, dense = has_head(model, probes[0]), answers_of(model, probes)
    options: dict[str, list[Option]] = {}
    for depth, layer in enumerate(walk.layers):
        for group in walk.groups(depth, modules):
            curvature = curvature_of(walk, depth, group)
            for name, linear in group.linears.items():
                progress(f"sensitivity of {layer}", len(options) / len(modules))
                found = {share: prune_matrix(linear.weight, curvature, pattern, share) for share in shares}
                kept = linear.weight.clone()
                linear.weight.copy_(found[probed].weight)
                change = compare_answers(dense, answers_of(model, probes), head=head)
                linear.weight.copy_(kept)
                scale = change.divergence / max(found[probed].error, 1e-12)
                shape = (linear.out_features, linear.in_features)
                times = {share: linear.weight.numel() * cost(shape, pattern, share) for share in (0.0, *shares)}
                options[name] = [
                    Option(0.0, 0.0, int((linear.weight == 0).sum()), times[0.0]),
                    *(
                        Option(share, scale * one.error, int(one.zeros.sum()), times[share])
                        for share, one in found.items()
                    ),
                ]
        walk.advance(depth)
    return options
