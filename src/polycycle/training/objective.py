"""The total loss of a training step, and the sums that go into the log.

Letters: B sequences, T tokens of each, N = B·T, E experts, K experts per token, V vocabulary.

Language-modelling and prior losses are divided by counts of the whole optimizer step over all
ranks, so how a step is cut into micro-batches and ranks does not change them. The balance loss is
not linear in the tokens: with `balance_scope: global` its statistics are summed over ranks, and
expert choices over the micro-batches of the step so far, so it comes close and is not the same.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from polycycle.data import IGNORED_LABEL, packed_model_inputs
from polycycle.languages import NO_LANGUAGE
from polycycle.losses import (
    BalanceStatistics,
    PriorForm,
    assignment_loss,
    balance_statistics,
    group_prior_loss,
    language_classifier_loss,
    language_prior_loss,
    load_balancing_loss,
    localized_balancing_loss,
    router_z_loss,
)
from polycycle.modeling import LayerRouting, RoutingRecord, record_mixing, record_routing
from polycycle.routing import Router
from polycycle.training.settings import BalanceScope


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounts:
    """What one optimizer step holds, over all micro-batches and ranks.

    Attributes:
        tokens: tokens, padding not counted.
        labels: tokens that are predicted.
        held: tokens that the prior loss holds to the experts of their group.
        assigned: tokens whose language has experts of its own.
        micro_batches: micro-batches that the step is cut into, on each rank.
        ranks: processes.
        chosen: per MoE layer [E], how many tokens of the micro-batches so far chose each expert,
            over all ranks; filled by a global balance loss while the step goes on.
    """

    tokens: int
    labels: int
    held: int
    assigned: int
    micro_batches: int
    ranks: int
    chosen: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """Which losses are added up, and how.

    Attributes:
        group_ids: group of each language id, 0 for the original languages.
        localized_coef: of LoRAMoE's balancing constraint, where a model has LoRA experts.
        localized_delta: how far it leans; see `losses.localized_balancing_loss`.
        owned_experts: per MoE layer, how many experts it had once each group was added; only the
            group prior reads it.
        reachable: by layer index, for each language id and expert, whether they belong together;
            only layers in which some language has experts of its own.
    """

    group_ids: tuple[int, ...]
    balance_coef: float
    balance_scope: BalanceScope
    prior_coef: float
    prior_form: PriorForm
    router_z_coef: float
    classifier_coef: float = 0.0
    localized_coef: float = 0.0
    localized_delta: float = 0.0
    owned_experts: tuple[tuple[int, ...], ...] = ()
    assignment_coef: float = 0.0
    reachable: Mapping[int, tuple[tuple[bool, ...], ...]] = field(default_factory=dict)

    @property
    def num_languages(self) -> int:
        """How many language ids there are."""
        return len(self.group_ids)

    def group_of(self, language_ids: Tensor) -> Tensor:
        """Group of each language id; padding has no language and group −1."""
        table = torch.tensor([*self.group_ids, NO_LANGUAGE], device=language_ids.device)
        return table[language_ids]

    def is_held(self, groups: Tensor) -> Tensor:
        """Which tokens the prior holds: of original languages, or of all groups but the newest."""
        newest = max(self.group_ids) if self.prior_form == "group" else 1
        return (groups >= 0) & (groups < newest)

    def reach_of(self, language_ids: Tensor) -> dict[int, Tensor]:
        """By layer index, [N, E] bool: the experts that each token of [N] language ids belongs to.

        Padding reaches all. Layers without experts of any one language are left out.
        """
        reach = {}
        for layer, rows in self.reachable.items():
            table = torch.tensor([*rows, (True,) * len(rows[0])], device=language_ids.device)
            reach[layer] = table[language_ids]  # −1, no language, is the last row
        return reach

    def is_assigned(self, language_ids: Tensor) -> Tensor:
        """Which tokens are of a language that has experts of its own in some layer."""
        assigned = [
            any(not all(rows[language]) for rows in self.reachable.values())
            for language in range(self.num_languages)
        ]
        return torch.tensor([*assigned, False], device=language_ids.device)[language_ids]


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one forward pass gave.

    The losses on routing are zero for a dense model; of one with LoRA experts, `balance` is the
    localized balancing constraint.

    Attributes:
        total: what is minimised, weighted so that the mean gradient over ranks is the step's.
        nats: [num_languages] summed loss by the target's language, no gradient.
        labels: [num_languages] how many targets that is.
        balance: unweighted load-balancing loss.
        prior: unweighted prior loss, this micro-batch's part of the step's; parts add up.
        z: unweighted router z-loss.
        classifier: unweighted loss of the language classifiers, plus that of the retention gate;
            this micro-batch's part of the step's, parts add up. Zero without either.
        assignment: unweighted assignment loss, this micro-batch's part of the step's; zero where
            no language has experts of its own.
        routing: per MoE layer, detached; none for a dense model.
        language_ids: [N] of the input tokens.
    """

    total: Tensor
    nats: Tensor
    labels: Tensor
    balance: Tensor
    prior: Tensor
    z: Tensor
    classifier: Tensor
    assignment: Tensor
    routing: list[LayerRouting]
    language_ids: Tensor


def count_step(
    batches: list[Mapping[str, Tensor]], objective: Objective, device: torch.device
) -> StepCounts:
    """Counts of the optimizer step that consists of these micro-batches, on all ranks."""
    languages = [batch["language_ids"].cpu() for batch in batches]
    groups = [objective.group_of(each) for each in languages]
    counts = torch.tensor(
        [
            sum(int((batch["labels"][:, 1:] != IGNORED_LABEL).sum()) for batch in batches),
            sum(int(objective.is_held(each).sum()) for each in groups),
            sum(int((each >= 0).sum()) for each in groups),
            sum(int(objective.is_assigned(each).sum()) for each in languages),
        ],
        device=device,
    )
    ranks = _sum_over_ranks(counts)
    labels, held, tokens, assigned = counts.tolist()
    return StepCounts(
        tokens=tokens,
        labels=max(labels, 1),
        held=held,
        assigned=assigned,
        micro_batches=len(batches),
        ranks=ranks,
    )


def compute_losses(
    model: Any, batch: Mapping[str, Tensor], objective: Objective, step: StepCounts
) -> MicroBatch:
    """Forward pass and all losses of one micro-batch.

    Args:
        model: an upcycled model, or a dense one; wrapped or not.
        batch: `input_ids`, `labels`, `position_ids`, `language_ids`, each [B, T].
        objective: which losses.
        step: counts of the whole optimizer step.
    """
    is_routed = any(isinstance(module, Router) for module in model.modules())
    with (
        record_routing(model) if is_routed else nullcontext(RoutingRecord()) as routing,
        record_mixing() as mixing,
    ):
        logits = model(**packed_model_inputs(batch)).logits
    nats = _token_nats(logits, batch["labels"])
    by_language, labels = _sum_by_language(nats, batch, objective.num_languages)
    language_ids = batch["language_ids"].flatten()
    groups = objective.group_of(language_ids)
    is_real, is_original = groups >= 0, groups == 0
    balance = prior = z = assignment = nats.new_zeros(())
    if is_routed:
        statistics = balance_statistics(routing.router_logits, routing.expert_ids, is_real)
        if objective.balance_scope == "global":
            statistics = _with_earlier([_global(layer) for layer in statistics], step)
        balance = load_balancing_loss(statistics)
        prior = _prior_loss(routing, groups, objective, step)
        z = router_z_loss(routing.router_logits, is_real)
        assignment = _assignment_loss(routing, language_ids, objective, step)
    scores = [layer.classifier_scores for layer in routing.layers]
    judged = [score for score in scores if score is not None]
    classifier = nats.new_zeros(())
    if judged:
        classifier = language_classifier_loss(judged, is_original, is_real, num_tokens=step.tokens)
    if routing.gate_scores is not None:
        gate = [routing.gate_scores.flatten()]
        classifier = classifier + language_classifier_loss(
            gate, is_original, is_real, num_tokens=step.tokens
        )
    # Loss and gradient are averaged over ranks afterwards. Losses over global counts are sums over
    # ranks, so they are multiplied by the ranks. Of a global balance loss every rank has the whole
    # value, but only its own tokens' part of the gradient: that alone is multiplied.
    summed = nats.sum() / step.labels + objective.prior_coef * prior
    summed = summed + objective.classifier_coef * classifier
    summed = summed + objective.assignment_coef * assignment
    if objective.balance_scope == "global":
        balance = balance + (step.ranks - 1) * (balance - balance.detach())
    balance_coef = objective.balance_coef
    if mixing:
        kinds = [mask.view_as(batch["language_ids"]) for mask in (is_original, is_real)]
        balance = localized_balancing_loss(mixing, *kinds, delta=objective.localized_delta)
        balance_coef = objective.localized_coef
    averaged = balance_coef * balance + objective.router_z_coef * z
    return MicroBatch(
        total=summed * step.ranks + averaged / step.micro_batches,
        nats=by_language,
        labels=labels,
        balance=balance.detach(),
        prior=prior.detach(),
        z=z.detach(),
        classifier=classifier.detach(),
        assignment=assignment.detach(),
        routing=[_detached(layer) for layer in routing.layers],
        language_ids=language_ids,
    )


def _prior_loss(
    routing: RoutingRecord, groups: Tensor, objective: Objective, step: StepCounts
) -> Tensor:
    if objective.prior_form == "group":
        return group_prior_loss(
            routing.router_logits, groups, objective.owned_experts, num_tokens=step.held
        )
    return language_prior_loss(
        routing.router_logits,
        groups == 0,
        form=objective.prior_form,
        num_original_tokens=step.held,
    )


def _assignment_loss(
    routing: RoutingRecord, language_ids: Tensor, objective: Objective, step: StepCounts
) -> Tensor:
    layers = [layer for layer in routing.layers if layer.layer_index in objective.reachable]
    if not layers:
        return language_ids.new_zeros((), dtype=torch.float32)
    reach = objective.reach_of(language_ids)
    return assignment_loss(
        [layer.router_logits for layer in layers],
        [reach[layer.layer_index] for layer in layers],
        num_tokens=step.assigned,
    )


def _token_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of each target, [B, T−1] float32; 0 where there is none."""
    flat = logits[:, :-1].flatten(0, 1).float()
    targets = labels[:, 1:].flatten()
    nats = F.cross_entropy(flat, targets, ignore_index=IGNORED_LABEL, reduction="none")
    return nats.reshape(labels.shape[0], -1)


def _sum_by_language(
    nats: Tensor, batch: Mapping[str, Tensor], num_languages: int
) -> tuple[Tensor, Tensor]:
    """Sums and counts by the language of the target token, [num_languages] each."""
    scored = batch["labels"][:, 1:] != IGNORED_LABEL
    languages = batch["language_ids"][:, 1:][scored]
    sums = torch.zeros(num_languages, device=nats.device)
    sums.index_add_(0, languages, nats.detach()[scored])
    return sums, torch.bincount(languages, minlength=num_languages)


def _global(layer: BalanceStatistics) -> BalanceStatistics:
    """The statistics summed over ranks; the gradient stays that of this rank's tokens."""
    if not (dist.is_available() and dist.is_initialized()):
        return layer
    joined = torch.cat([layer.assignments, layer.prob_sums.detach(), layer.num_tokens[None]])
    dist.all_reduce(joined)
    num_experts = len(layer.assignments)
    others = joined[num_experts:-1] - layer.prob_sums.detach()
    return BalanceStatistics(
        assignments=joined[:num_experts],
        prob_sums=layer.prob_sums + others,
        num_tokens=joined[-1],
    )


def _with_earlier(statistics: list[BalanceStatistics], step: StepCounts) -> list[BalanceStatistics]:
    """The statistics with the expert choices of the step's earlier micro-batches, and these added.

    Choices have no gradient, so the sum over all micro-batches would be the global balance loss if
    it were known before the first one. What is known by then is used in its place.

    Source: "Demons in the detail: on implementing load balancing loss", arXiv:2501.11873.
    """
    earlier = step.chosen or [torch.zeros_like(layer.assignments) for layer in statistics]
    step.chosen[:] = [
        sofar + layer.assignments for sofar, layer in zip(earlier, statistics, strict=True)
    ]
    return [
        replace(layer, assignments=chosen)
        for layer, chosen in zip(statistics, step.chosen, strict=True)
    ]


def _sum_over_ranks(values: Tensor) -> int:
    """Sum in place over ranks; gives how many there are."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        return dist.get_world_size()
    return 1


def _detached(layer: LayerRouting) -> LayerRouting:
    return LayerRouting(
        layer.layer_index,
        layer.router_logits.detach(),
        layer.expert_ids,
        layer.expert_weights.detach(),
        None if layer.classifier_scores is None else layer.classifier_scores.detach(),
        layer.judged_original,
    )
