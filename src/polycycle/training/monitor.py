"""What is watched while training: losses per language, and where each group's tokens go.

Letters: L MoE layers, E experts, N tokens, K experts per token, G language groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from polycycle.evaluation import count_assignments, frozen_shares, usage_entropy
from polycycle.experts import FROZEN_EXPERT
from polycycle.languages import LanguageGroups
from polycycle.modeling import LayerRouting
from polycycle.training.objective import MicroBatch

_LOSSES = ("balance", "prior", "z", "classifier", "assignment")
"""Of a `MicroBatch`."""


@dataclass(frozen=True, slots=True)
class StepRouting:
    """The routing of one optimizer step.

    Attributes:
        usage: per MoE layer [E], share of the step's assignments that each expert got.
        layer_indices: the layers these are.
    """

    usage: list[Tensor]
    layer_indices: list[int]

    @property
    def entropies(self) -> list[float]:
        """Per layer, entropy of the usage over ln E: 1 is perfectly even, 0 is one expert."""
        return [usage_entropy(layer) for layer in self.usage]


class Monitor:
    """Adds up micro-batches; gives a step's routing at its end, and a log line when asked.

    Sums are over the local rank until they are read, then over all ranks.

    Args:
        groups: language ids and groups.
        reachable: by layer index, for each language id and expert whether they belong together;
            see `Objective`.
    """

    def __init__(
        self,
        groups: LanguageGroups,
        reachable: Mapping[int, Sequence[Sequence[bool]]] | None = None,
    ) -> None:
        self.groups = groups
        self._own = {layer: _own_experts(rows) for layer, rows in (reachable or {}).items()}
        # Language id → group number; padding has no group.
        self._group_of = torch.tensor([groups.group_of(tag) for tag in groups.all])
        self._num_groups = 1 + len(groups.expanded)
        self._step: dict[int, Tensor] = {}
        self.tokens = 0
        self.steps = 0
        self._is_routed = False
        self._clear()

    def _clear(self) -> None:
        languages = len(self.groups.all)
        self._nats = torch.zeros(languages, dtype=torch.float64)
        self._labels = torch.zeros(languages, dtype=torch.float64)
        # Unweighted losses summed, and what they are divided by.
        self._sums = dict.fromkeys((*_LOSSES, "micro_batches", "steps"), 0.0)
        # Per language: tokens that reached an expert of its own, and tokens, over layers.
        self._reached = torch.zeros(languages, 2, dtype=torch.float64)
        self._frozen = torch.zeros(self._num_groups, 2, dtype=torch.float64)
        self._entropies: list[list[float]] = []

    def add(self, batch: MicroBatch) -> None:
        """Take in one micro-batch."""
        self._nats += batch.nats.cpu()
        self._labels += batch.labels.cpu()
        for name in _LOSSES:
            self._sums[name] += float(getattr(batch, name))
        self._sums["micro_batches"] += 1
        is_real = batch.language_ids >= 0
        self.tokens += int(is_real.sum())
        groups = self._group_of.to(batch.language_ids.device)[batch.language_ids[is_real]]
        self._is_routed = bool(batch.routing)
        for layer in batch.routing:
            self._add_layer(layer, is_real, groups)
            if layer.layer_index in self._own:
                self._add_reached(layer, batch.language_ids, is_real)

    def _add_layer(self, layer: LayerRouting, is_real: Tensor, groups: Tensor) -> None:
        ids = layer.expert_ids[is_real]
        counts = count_assignments(ids, layer.router_logits.shape[-1]).double().cpu()
        before = self._step.get(layer.layer_index)
        self._step[layer.layer_index] = counts if before is None else before + counts
        share = frozen_shares(ids, layer.expert_weights[is_real])
        sums = torch.zeros(self._num_groups, 2, dtype=torch.float64, device=share.device)
        sums.index_add_(0, groups, torch.stack([share, torch.ones_like(share)], 1))
        self._frozen += sums.cpu()

    def _add_reached(self, layer: LayerRouting, language_ids: Tensor, is_real: Tensor) -> None:
        ids, languages = layer.expert_ids[is_real], language_ids[is_real]
        own = self._own[layer.layer_index].to(ids.device)
        # An empty choice, −1, is the last column.
        none = torch.zeros_like(own[:, :1])
        has_reached = torch.cat([own, none], 1)[languages].gather(1, ids % (own.shape[1] + 1))
        counted = own.any(1)[languages]
        values = torch.stack([has_reached.any(1) & counted, counted], 1).double()
        sums = torch.zeros_like(self._reached, device=ids.device)
        self._reached += sums.index_add_(0, languages, values).cpu()

    def end_step(self) -> StepRouting:
        """The routing of the optimizer step that has just ended, over all ranks."""
        layers = sorted(self._step)
        counts = [self._step[layer] for layer in layers]
        joined = _over_ranks(torch.cat(counts)) if counts else torch.zeros(0)
        parts = joined.split([len(self._step[layer]) for layer in layers])
        routing = StepRouting([part / part.sum().clamp(min=1) for part in parts], layers)
        if layers:
            self._entropies.append(routing.entropies)
        self._sums["steps"] += 1
        self.steps += 1
        self._step = {}
        return routing

    def read(self) -> dict[str, Any]:
        """What was seen since the last reading, over all ranks; begins anew.

        Returns:
            `lm_loss` by language; unless the model is dense, `balance_loss`, `prior_loss`,
            `z_loss`, `classifier_loss`, `expert0_share` by group, `usage_entropy_min` and
            `usage_entropy_mean`; where languages have experts of their own, `assignment_loss` and
            by language `own_experts_share`, of its tokens those with at least one of them among
            their experts, averaged over the layers that have any.
        """
        nats, labels = _over_ranks(self._nats), _over_ranks(self._labels)
        sums = _over_ranks(torch.tensor(list(self._sums.values()), dtype=torch.float64))
        total = dict(zip(self._sums, sums.tolist(), strict=True))
        # Parts of a step's prior, classifier and assignment loss add up to the step's; of balance
        # and router z each micro-batch has a value of its own.
        micro_batches = max(total["micro_batches"], 1)
        steps = max(total["steps"] / _num_ranks(), 1)
        frozen = _over_ranks(self._frozen)
        line: dict[str, Any] = {
            "lm_loss": {
                tag: (nats[i] / labels[i]).item()
                for i, tag in enumerate(self.groups.all)
                if labels[i] > 0
            }
        }
        of_routing = {
            "balance_loss": total["balance"] / micro_batches,
            "prior_loss": total["prior"] / steps,
            "z_loss": total["z"] / micro_batches,
            "classifier_loss": total["classifier"] / steps,
            "expert0_share": {
                _group_name(number): (frozen[number, 0] / frozen[number, 1]).item()
                for number in range(self._num_groups)
                if frozen[number, 1] > 0
            },
            "usage_entropy_min": min((min(e) for e in self._entropies), default=1.0),
            "usage_entropy_mean": _mean([_mean(e) for e in self._entropies]),
        }
        if self._own:
            reached = _over_ranks(self._reached)
            of_routing["assignment_loss"] = total["assignment"] / steps
            of_routing["own_experts_share"] = {
                tag: (reached[i, 0] / reached[i, 1]).item()
                for i, tag in enumerate(self.groups.all)
                if reached[i, 1] > 0
            }
        self._clear()
        return line | of_routing if self._is_routed else line

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; taken right after a reading, when all sums are empty."""
        return {"tokens": self.tokens, "steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.tokens, self.steps = state["tokens"], state["steps"]


def _own_experts(reachable: Sequence[Sequence[bool]]) -> Tensor:
    """[languages, E] bool: experts of a language's own; none where it reaches all."""
    reach = torch.tensor(reachable)
    own = reach & ~reach.all(1, keepdim=True)
    own[:, FROZEN_EXPERT] = False
    return own


def _group_name(number: int) -> str:
    return "original" if number == 0 else f"G{number}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 1.0


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _over_ranks(values: Tensor) -> Tensor:
    if _num_ranks() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
