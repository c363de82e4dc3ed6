"""Losses on what routers decided: pure, unweighted, in float32.

Letters: T tokens of the call, E experts of one layer (layers may differ), K experts per token.
Every function takes one tensor per layer and returns the mean over layers; coefficients multiply
outside. Softmax and logarithms are taken in float32 (float64 stays float64), since in bfloat16 the
logarithm of a small probability has two significant digits.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from polycycle.experts import FROZEN_EXPERT, NO_EXPERT

PriorForm = Literal["paper", "released", "group"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceStatistics:
    """What one layer contributes to the load-balancing loss: sums over tokens, so ranks add up.

    Attributes:
        assignments: [E] how many tokens chose each expert; no gradient.
        prob_sums: [E] router probabilities summed over tokens; carries the gradient.
        num_tokens: [] tokens counted.
    """

    assignments: Tensor
    prob_sums: Tensor
    num_tokens: Tensor


def balance_statistics(
    router_logits: Sequence[Tensor],
    expert_ids: Sequence[Tensor],
    mask: Tensor | None = None,
) -> list[BalanceStatistics]:
    """Assignment counts and probability sums of every layer.

    Args:
        router_logits: per layer [T, E].
        expert_ids: per layer [T, K], the experts chosen; −1 is none.
        mask: [T] bool, True where the token counts (False for padding); None counts all.
    """
    return [
        _layer_statistics(logits, ids, mask) for logits, ids in _pairs(router_logits, expert_ids)
    ]


def _pairs(
    router_logits: Sequence[Tensor], expert_ids: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    _require_layers(router_logits)
    return list(zip(router_logits, expert_ids, strict=True))


def _layer_statistics(logits: Tensor, ids: Tensor, mask: Tensor | None) -> BalanceStatistics:
    if mask is None:
        mask = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    probs = F.softmax(_wide(logits), dim=-1)
    # One class more, for choices left empty; it is dropped again.
    counts = F.one_hot(ids - NO_EXPERT, logits.shape[-1] + 1).sum(dim=1)[:, 1:]
    weights = mask.to(probs.dtype)
    return BalanceStatistics(
        assignments=(counts.to(probs.dtype) * weights[:, None]).sum(0),
        prob_sums=(probs * weights[:, None]).sum(0),
        num_tokens=weights.sum(),
    )


def load_balancing_loss(statistics: Sequence[BalanceStatistics]) -> Tensor:
    """Mean over layers of Σ f_i P_i: 1.0 at perfect balance, E when one expert takes everything.

    f_i = E / (K·T) · #{tokens that select i}, P_i = mean over tokens of the router probability.
    A layer in which no token counts contributes 0.

    Source: MoE-LPR, arXiv:2408.11396, eq. 5–6.
    Differs: the released code uses transformers' function, whose value is K times larger, so its
        coefficient 0.01 with K = 2 is 0.02 here.
    """
    _require_layers(statistics)
    return torch.stack([_layer_balance(layer) for layer in statistics]).mean()


def _layer_balance(layer: BalanceStatistics) -> Tensor:
    num_experts = layer.assignments.shape[0]
    share = num_experts * layer.assignments / layer.assignments.sum().clamp(min=1)
    return (share * layer.prob_sums).sum() / layer.num_tokens.clamp(min=1)


def language_prior_loss(
    router_logits: Sequence[Tensor],
    is_original: Tensor,
    *,
    form: PriorForm = "paper",
    num_original_tokens: Tensor | int | None = None,
) -> Tensor:
    """Mean over layers and original-language tokens of −log G₀: how far they are from expert 0.

    Args:
        router_logits: per layer [T, E].
        is_original: [T] bool, True where the token comes from an original-language document.
            Padding is False.
        form: `paper` is −log softmax(logits)₀, unbounded; γ = 0.1 belongs to it. `released` takes
            the softmax of the probabilities once more, as the authors' code does: bounded in
            [1.04, 2.04] for E = 6, and with a gradient that vanishes where the router is
            confidently wrong, so it wants a γ several times larger.
        num_original_tokens: what to divide by; by default the original tokens of this call. Give
            the count of the whole optimizer step to make the loss independent of how the step is
            split into micro-batches and ranks.

    Returns:
        A scalar; exactly 0 (with a zero gradient, never NaN) where no token is original.

    Source: MoE-LPR, arXiv:2408.11396, eq. 8–9.
    Differs: the paper writes a plain sum over tokens and no layer index; like the released code,
        we take the mean. The `released` form averages layers of equal E first and then those
        groups, as the released LayerMoE code does; with equal E everywhere that is the same mean.
    """
    _require_layers(router_logits)
    original = is_original.to(torch.bool)
    if num_original_tokens is None:
        num_original_tokens = original.sum()
    denominator = torch.as_tensor(num_original_tokens, device=original.device).clamp(min=1)
    groups: dict[int, list[Tensor]] = defaultdict(list)
    for logits in router_logits:
        scores = _wide(logits)
        if form == "released":
            scores = F.softmax(scores, dim=-1)
        loss = -F.log_softmax(scores, dim=-1)[:, FROZEN_EXPERT]
        # where, not multiplication: a padding row may hold anything, and 0 · inf is NaN.
        loss = torch.where(original, loss, torch.zeros_like(loss)).sum() / denominator
        groups[logits.shape[-1] if form == "released" else 0].append(loss)
    return torch.stack([torch.stack(layers).mean() for layers in groups.values()]).mean()


def group_prior_loss(
    router_logits: Sequence[Tensor],
    group_ids: Tensor,
    owned_experts: Sequence[Sequence[int]],
    *,
    num_tokens: Tensor | int | None = None,
) -> Tensor:
    """Mean over layers and tokens of −log Σ_{e allowed} G_e: a group keeps to the experts it had.

    A token of group g may use every expert that existed when g's training ended; the newest group
    is not held back. For a single expanded group this is `language_prior_loss` in its paper form.

    Args:
        router_logits: per layer [T, E].
        group_ids: int64 [T], 0 for original languages, g for group Gg, −1 for padding.
        owned_experts: per layer, for each group 0, 1, …, how many experts the layer had once the
            group was added: `[1, 4, 6]` allows {0}, {0…3}, {0…5}.
        num_tokens: what to divide by; by default the tokens of all groups but the newest.

    Source: ours, after LayerMoE's lifelong expansion, which gives earlier groups no routing prior.
    """
    _require_layers(router_logits)
    newest = len(owned_experts[0]) - 1
    is_held = (group_ids >= 0) & (group_ids < newest)
    if num_tokens is None:
        num_tokens = is_held.sum()
    denominator = torch.as_tensor(num_tokens, device=group_ids.device).clamp(min=1)
    losses = []
    for logits, owned in zip(router_logits, owned_experts, strict=True):
        sizes = torch.tensor(owned, device=logits.device)[group_ids.clamp(min=0)]
        experts = torch.arange(logits.shape[-1], device=logits.device)
        nats = _nats_of_allowed(logits, experts < sizes[:, None])
        losses.append(torch.where(is_held, nats, torch.zeros_like(nats)).sum() / denominator)
    return torch.stack(losses).mean()


def assignment_loss(
    router_logits: Sequence[Tensor],
    reachable: Sequence[Tensor],
    *,
    num_tokens: Tensor | int | None = None,
) -> Tensor:
    """Mean over layers and tokens of −log Σ_{e reachable} G_e: a language keeps to its experts.

    Args:
        router_logits: per layer [T, E].
        reachable: per layer [T, E] bool, the experts that the token's language belongs to, expert 0
            among them. Rows that are True throughout (a language without experts of its own, an
            original one, padding) are not held and contribute 0.
        num_tokens: what to divide by; by default the tokens held in any layer. See
            `language_prior_loss` on accumulated steps.

    Source: ours, in the form of `group_prior_loss`. DeltaMoE, arXiv:2605.18083, assigns experts to
        languages; how is not public.
    """
    _require_layers(router_logits)
    held = [~mask.all(-1) for mask in reachable]
    if num_tokens is None:
        num_tokens = torch.stack(held).any(0).sum()
    denominator = torch.as_tensor(num_tokens, device=reachable[0].device).clamp(min=1)
    losses = []
    for logits, mask, is_held in zip(router_logits, reachable, held, strict=True):
        nats = _nats_of_allowed(logits, mask)
        losses.append(torch.where(is_held, nats, torch.zeros_like(nats)).sum() / denominator)
    return torch.stack(losses).mean()


def _nats_of_allowed(logits: Tensor, allowed: Tensor) -> Tensor:
    """−log of each token's probability mass on allowed experts; [T] from [T, E] and [T, E] bool."""
    log_probs = F.log_softmax(_wide(logits), dim=-1)
    return -torch.where(allowed, log_probs, -torch.inf).logsumexp(-1)


def language_classifier_loss(
    classifier_scores: Sequence[Tensor],
    is_original: Tensor,
    mask: Tensor,
    *,
    num_tokens: Tensor | int | None = None,
) -> Tensor:
    """Mean over layers and tokens of the cross-entropy of "original or expanded".

    Args:
        classifier_scores: per layer that has a classifier [T]; above zero is original.
        is_original: [T] bool, True where the token comes from an original-language document.
        mask: [T] bool, False for padding.
        num_tokens: what to divide by; by default the tokens of this call. See
            `language_prior_loss` on accumulated steps.

    Source: LayerMoE, arXiv:2505.22582, L_cls. Two classes, so a logistic loss on the difference of
        their scores.
    """
    _require_layers(classifier_scores)
    if num_tokens is None:
        num_tokens = mask.sum()
    denominator = torch.as_tensor(num_tokens, device=mask.device).clamp(min=1)
    losses = []
    for scores in classifier_scores:
        wide = _wide(scores)
        nats = F.binary_cross_entropy_with_logits(
            wide, is_original.to(wide.dtype), reduction="none"
        )
        losses.append(torch.where(mask, nats, torch.zeros_like(nats)).sum() / denominator)
    return torch.stack(losses).mean()


def router_z_loss(router_logits: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean over layers and tokens of logsumexp(logits)²: keeps router logits small.

    Args:
        router_logits: per layer [T, E].
        mask: [T] bool, True where the token counts; None counts all.

    Source: ST-MoE, arXiv:2202.08906, eq. 5. Not part of MoE-LPR.
    """
    _require_layers(router_logits)
    return torch.stack([_layer_z(logits, mask) for logits in router_logits]).mean()


def _layer_z(logits: Tensor, mask: Tensor | None) -> Tensor:
    squares = torch.logsumexp(_wide(logits), dim=-1).square()
    if mask is None:
        return squares.mean()
    kept = torch.where(mask, squares, torch.zeros_like(squares))
    return kept.sum() / mask.sum().clamp(min=1)


def _wide(logits: Tensor) -> Tensor:
    """Float32, or float64 where the caller works in float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _require_layers(layers: Sequence[object]) -> None:
    # An empty list would give a NaN mean; the caller forgot to record, or the model has no MoE.
    if not layers:
        raise ValueError(
            "no layer to take a routing loss of: record_routing(model) must wrap the forward "
            "pass of a model with at least one mixture-of-experts layer"
        )
