"""The router: from hidden states to the experts of every token and their weights.

Letters: B sequences of S tokens, N = B·S, E experts of the layer (expert 0 is the frozen original),
K experts per token, D hidden size.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycycle.experts import NO_EXPERT
from polycycle.routing.classifier import LanguageClassifier, send_to_frozen_expert

RoutingWeightsDtype = Literal["float32", "hidden"]


class RouterOutput(NamedTuple):
    """What a router decided for N tokens.

    Attributes:
        logits: [N, E] before the softmax and before any mask, in the hidden states' dtype.
        expert_ids: [N, K] int64, the chosen experts, best first; −1 where there is no further one.
        expert_weights: [N, K], what each chosen expert's output is multiplied by.
        classifier_scores: [N] of the language classifier; None without one.
        judged_original: [N] bool, the tokens that it or the retention gate sent to expert 0 alone;
            None without either.
    """

    logits: Tensor
    expert_ids: Tensor
    expert_weights: Tensor
    classifier_scores: Tensor | None = None
    judged_original: Tensor | None = None


class RouterRows(nn.ParameterDict):
    """The rows of every language group by its name; called, those of some groups, concatenated.

    A call and not an attribute, because accelerate brings weights that lie on another device or on
    disk when their module is called; read without, they are empty.
    """

    __call__ = nn.Module.__call__  # a ParameterDict refuses to be called

    def forward(self, groups: Sequence[str]) -> Tensor:
        """[E, D]."""
        return torch.cat([self[group] for group in groups])


class Router(nn.Module):
    """Linear map → softmax over all experts → top-k → renormalise → cast.

    The rows of each language group are a parameter of their own, concatenated in the forward: a
    frozen row inside one tensor would still be moved by weight decay when a later group trains.

    Args:
        hidden_size: D.
        rows: router rows that each group brought, in order; the first includes expert 0's.
        masked_groups: groups at the end whose experts are out of reach: their rows are left out,
            which is a mask of −∞ that changes no bit for the others.
        top_k: K, at most E (a layer with fewer experts uses them all).
        renormalize: make the chosen weights sum to one.
        weights_dtype: `float32` keeps float32 weights (Mixtral), `hidden` casts them to the hidden
            states' dtype (Qwen, OLMo), so that the exported stock model computes the same.
        layer_index: position of the decoder layer, for those who watch the routing.
        classifier: decides first which tokens go to expert 0 alone.

    Source: MoE-LPR, arXiv:2408.11396, eq. 2–3.
    Differs: the released code does not renormalise when K = 1, which breaks the identity with the
        dense model; here `renormalize` says it, for every K.
    """

    def __init__(
        self,
        hidden_size: int,
        rows: Mapping[str, int],
        *,
        top_k: int,
        renormalize: bool,
        weights_dtype: RoutingWeightsDtype,
        layer_index: int,
        classifier: LanguageClassifier | None = None,
        masked_groups: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.rows = RouterRows(
            {group: nn.Parameter(torch.empty(count, hidden_size)) for group, count in rows.items()}
        )
        self.active_groups = tuple(group for group in rows if group not in masked_groups)
        self.num_experts = sum(rows[group] for group in self.active_groups)
        self.top_k = min(top_k, self.num_experts)
        self.renormalize = renormalize
        self.weights_dtype = weights_dtype
        self.layer_index = layer_index
        self.classifier = classifier
        # Only `modeling.route_by_language` sets it: a plain attribute, in no state dict, that the
        # recomputation of a checkpointed layer sees in whatever thread it runs.
        self.reachable_NE: Tensor | None = None

    def forward(self, hidden_BSD: Tensor, original_BS: Tensor | None = None) -> RouterOutput:
        """Experts and weights of each of the N = B·S tokens.

        Args:
            hidden_BSD: [B, S, D].
            original_BS: [B, S] bool, tokens that were judged original before; they go to expert 0
                alone, whatever this layer makes of them.
        """
        hidden_ND = hidden_BSD.reshape(-1, hidden_BSD.shape[-1])
        logits = F.linear(hidden_ND, self.rows(self.active_groups))
        # float32: in bfloat16 neighbouring probabilities tie and the top-k would depend on order.
        # (float64 stays as it is, for oracles.)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        reachable = self.reachable_NE
        if reachable is not None:
            wide = wide.masked_fill(~reachable, -torch.inf)
        weights, expert_ids = torch.topk(F.softmax(wide, dim=-1), self.top_k, dim=-1)
        if reachable is not None:  # fewer than K may be left
            expert_ids = expert_ids.masked_fill(~reachable.gather(-1, expert_ids), NO_EXPERT)
        if self.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.weights_dtype == "hidden":
            weights = weights.to(logits.dtype)
        scores = judged = None
        if self.classifier is not None:
            scores = self.classifier(hidden_BSD)
            judged = self.classifier.judge(scores)
        if original_BS is not None:
            before = original_BS.reshape(-1)
            judged = before if judged is None else before | judged
        if judged is None:
            return RouterOutput(logits, expert_ids, weights)
        return RouterOutput(
            logits, *send_to_frozen_expert(judged, expert_ids, weights), scores, judged
        )

    def extra_repr(self) -> str:
        return f"num_experts={self.num_experts}, top_k={self.top_k}, renormalize={self.renormalize}"


def router_init(num_rows: int, hidden_size: int, generator: torch.Generator) -> Tensor:
    """Fresh router rows [num_rows, D] in float32, Xavier-normal.

    Source: MoE-LPR, arXiv:2408.11396, §3.1 and the released code.
    """
    rows = torch.empty(num_rows, hidden_size)
    return nn.init.xavier_normal_(rows, generator=generator)
