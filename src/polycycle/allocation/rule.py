"""From similarities and a budget to experts per layer: fewer where languages already agree.

Letters: L layers, S_i similarity of layer i, N_i experts of layer i with the frozen one, T budget.

LayerMoE's rule is N_i = ceil(w_i · δ) with w_i = (1/S_i) / Σ_j (1/S_j). With t = δ / Σ_j (1/S_j)
it reads N_i = ceil(t / S_i): layer i goes from n to n + 1 experts just after t = n · S_i. Raising t
from zero therefore hands out experts one by one, the next to the layer with the smallest n · S_i,
and the largest δ within the budget is where the next one would exceed it. (Apportionment knows this
as Adams' method, with 1/S_i for votes.) The products n · S_i are compared as exact fractions, so
that rounding neither makes nor breaks a tie.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from polycycle.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocationPlan:
    """Experts per layer, and how they came about.

    Attributes:
        num_experts_per_layer: [L], the frozen expert included; 1 leaves a layer dense.
        budget_experts: T, the total that was asked for.
        delta: the largest δ of the rule within the budget; None where no δ decides: every layer
            has reached `max_experts`, or the plan is export-friendly.
        next_total_experts: the smallest possible total above the budget; None if there is none.
        similarity: [L], S_i.
        min_experts: the least a layer gets.
        max_experts: the most a layer gets; None without a limit.
        export_friendly: whether layers have either 1 expert or all the same number.
    """

    num_experts_per_layer: tuple[int, ...]
    budget_experts: int
    delta: float | None
    next_total_experts: int | None
    similarity: tuple[float, ...]
    min_experts: int
    max_experts: int | None
    export_friendly: bool = False

    @property
    def total_experts(self) -> int:
        """Experts of all layers, frozen ones included."""
        return sum(self.num_experts_per_layer)

    @property
    def new_experts(self) -> int:
        """Experts that training adds."""
        return self.total_experts - len(self.num_experts_per_layer)

    @property
    def meets_budget(self) -> bool:
        """Whether the total is the one asked for, and not less."""
        return self.total_experts == self.budget_experts

    def to_json(self) -> dict[str, Any]:
        """Plain values, `num_experts_per_layer` first."""
        return {
            "num_experts_per_layer": list(self.num_experts_per_layer),
            "total_experts": self.total_experts,
            "new_experts": self.new_experts,
            "budget_experts": self.budget_experts,
            "meets_budget": self.meets_budget,
            "next_total_experts": self.next_total_experts,
            "delta": self.delta,
            "min_experts": self.min_experts,
            "max_experts": self.max_experts,
            "export_friendly": self.export_friendly,
            "per_layer": list(self.similarity),
        }


def allocate_experts(
    similarity: Sequence[float],
    total_experts: int,
    *,
    min_experts: int = 2,
    max_experts: int | None = None,
) -> AllocationPlan:
    """LayerMoE's experts per layer: the largest δ whose total does not exceed the budget.

    A more similar layer never gets more experts than a less similar one, and layers of equal
    similarity get equally many. The latter step together, so not every total can be met; what is
    left of the budget then stays unspent.

    Args:
        similarity: S_i of each layer, finite and above 0.
        total_experts: T, frozen experts included.
        min_experts: N_i is raised to this after the ceiling; 1 lets layers stay dense.
        max_experts: N_i is lowered to this.

    Raises:
        DataError: a similarity for which 1/S_i says nothing.
        ConfigError: the budget is below the minimum, or the limits contradict each other.

    Source: LayerMoE, arXiv:2505.22582, §3.2.
    Differs: the paper does not say how δ is found, nor what is done about ties; the limits are
        ours (all published lists have at least 2).
    """
    exact = _checked(similarity, total_experts, min_experts, max_experts)
    counts = [min_experts] * len(exact)
    total = sum(counts)
    ceiling = math.inf if max_experts is None else max_experts
    # (t at which the layer gets one more expert, layer)
    steps = [(min_experts * s, layer) for layer, s in enumerate(exact) if min_experts < ceiling]
    heapq.heapify(steps)
    threshold, next_total = None, None
    while steps:
        together = _pop_ties(steps)
        if total + len(together) > total_experts:
            threshold, next_total = counts[together[0]] * exact[together[0]], total + len(together)
            break
        total += len(together)
        for layer in together:
            counts[layer] += 1
            if counts[layer] < ceiling:
                heapq.heappush(steps, (counts[layer] * exact[layer], layer))
    return AllocationPlan(
        num_experts_per_layer=tuple(counts),
        budget_experts=total_experts,
        delta=None if threshold is None else float(threshold * sum(1 / s for s in exact)),
        next_total_experts=next_total,
        similarity=tuple(similarity),
        min_experts=min_experts,
        max_experts=max_experts,
    )


def allocate_export_friendly(
    similarity: Sequence[float], total_experts: int, *, max_experts: int | None = None
) -> AllocationPlan:
    """Experts per layer from {1, E} alone: E for the least similar layers, the others stay dense.

    Stock architectures have one number of experts for the whole model, but several allow layers
    without any, so these counts leave our format with nothing lost. As many layers as the budget
    allows get E; layers of equal similarity stand or fall together.

    Args:
        similarity: S_i of each layer, finite and above 0.
        total_experts: T, frozen experts included.
        max_experts: E; by default the most that `allocate_experts` gives a layer for this budget
            when layers may stay dense.

    Raises:
        DataError, ConfigError: as `allocate_experts`.
    """
    exact = _checked(similarity, total_experts, 1, max_experts)
    experts = max_experts or max(
        allocate_experts(similarity, total_experts, min_experts=1).num_experts_per_layer
    )
    counts = [1] * len(exact)
    next_total = None
    for value in sorted(set(exact)) if experts > 1 else ():
        layers = [layer for layer, s in enumerate(exact) if s == value]
        more = sum(counts) + len(layers) * (experts - 1)
        if more > total_experts:
            next_total = more
            break
        for layer in layers:
            counts[layer] = experts
    return AllocationPlan(
        num_experts_per_layer=tuple(counts),
        budget_experts=total_experts,
        delta=None,
        next_total_experts=next_total,
        similarity=tuple(similarity),
        min_experts=1,
        max_experts=experts,
        export_friendly=True,
    )


def share_of_uniform(share: float, *, num_layers: int, num_experts: int) -> int:
    """The total whose new experts are at most `share` of those of `num_experts` in every layer.

    LayerMoE's "60 % fewer" is a share of 0.4: of 24 layers × 5 new experts, 48, so 72 in all.

    Raises:
        ConfigError: a share that is not above 0, or nothing to share.
    """
    if not (math.isfinite(share) and share > 0):
        raise ConfigError(f"--share-of-uniform {share}: give a number above 0, such as 0.4")
    if num_experts < 2:
        raise ConfigError(
            f"--num-experts {num_experts}: that many everywhere are no new experts to take a share "
            "of; give at least 2"
        )
    # As written in decimal: 0.29 × 100 is 29, and not what binary makes of it.
    new_experts = math.floor(Fraction(repr(share)) * num_layers * (num_experts - 1))
    return num_layers + new_experts


def with_dense_layers(
    dense_layers: Sequence[int],
    similarity: Sequence[float],
    total_experts: int,
    allocate: Callable[[Sequence[float], int], AllocationPlan],
) -> AllocationPlan:
    """Some layers stay dense whatever their similarity; the others share the budget.

    The first layer's router sees bare words. It learns which words are new, but not that words of a
    language which review does not show are original, so experts there cost retention.

    Args:
        dense_layers: counted from 0.
        similarity: S_i of each layer; not looked at where the layer stays dense.
        total_experts: T, frozen experts of all layers included.
        allocate: gives a plan for the similarities and the budget of the other layers.

    Raises:
        ConfigError: a layer that is not there, or none is left.
        DataError, ConfigError: as `allocate_experts`, of the layers that are left.
    """
    dense = set(dense_layers)
    unknown = sorted(layer for layer in dense if not 0 <= layer < len(similarity))
    if unknown:
        raise ConfigError(
            f"dense layers: there is no layer {unknown[0]}; choose among 0 to {len(similarity) - 1}"
        )
    others = [layer for layer in range(len(similarity)) if layer not in dense]
    if not others:
        raise ConfigError("dense layers: no layer is left for experts; leave at least one out")
    _check_numbers({layer: similarity[layer] for layer in others})
    plan = allocate([similarity[layer] for layer in others], total_experts - len(dense))
    counts = dict(zip(others, plan.num_experts_per_layer, strict=True))
    following = plan.next_total_experts
    return replace(
        plan,
        num_experts_per_layer=tuple(counts.get(layer, 1) for layer in range(len(similarity))),
        budget_experts=total_experts,
        next_total_experts=None if following is None else following + len(dense),
        similarity=tuple(similarity),
    )


def _pop_ties(steps: list[tuple[Fraction, int]]) -> list[int]:
    """The layers that step next, all at the same t; taken off the heap."""
    threshold, layer = heapq.heappop(steps)
    layers = [layer]
    while steps and steps[0][0] == threshold:
        layers.append(heapq.heappop(steps)[1])
    return layers


def _checked(
    similarity: Sequence[float], total_experts: int, min_experts: int, max_experts: int | None
) -> list[Fraction]:
    """The similarities as exact fractions, once everything else is seen to be possible."""
    if not similarity:
        raise DataError("no similarities: `per_layer` needs one number for each layer")
    _check_numbers(dict(enumerate(similarity)))
    if min_experts < 1:
        raise ConfigError(
            f"--min-experts {min_experts}: expert 0 is the original, so 1 is the least "
            "(it lets layers stay dense)"
        )
    if max_experts is not None and max_experts < max(min_experts, 2):
        raise ConfigError(
            f"--max-experts {max_experts} leaves nothing to share out: say at least "
            f"--max-experts {max(min_experts, 2)}"
        )
    least = len(similarity) * min_experts
    if total_experts < least:
        new = least - len(similarity)
        instead = ", or lower --min-experts" if min_experts > 1 else ""
        raise ConfigError(
            f"a budget of {total_experts} experts in all ({total_experts - len(similarity)} new) "
            f"is too small: {len(similarity)} layers with at least {min_experts} each are {least} "
            f"({new} new). Say --total-experts {least} (or --new-experts {new}) or more{instead}"
        )
    return [Fraction(value) for value in similarity]


def _check_numbers(similarity: Mapping[int, float]) -> None:
    for layer, value in similarity.items():
        if not (math.isfinite(value) and value > 0):
            raise DataError(
                f"layer {layer}: similarity {value}; experts are shared out as 1/similarity, which "
                "needs finite numbers above 0. Measure on more text (polycycle similarity "
                "--tokens-per-language …), let the layer stay dense (--dense-layers), or give each "
                "layer a number yourself"
            )
