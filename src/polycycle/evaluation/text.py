"""How well a model predicts held-out text, how far it moved from its base, and where it routed.

Letters: N tokens, E experts of a layer, K experts per token, V vocabulary.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polycycle.data import IGNORED_LABEL, WindowBatch
from polycycle.evaluation.usage import count_assignments, frozen_shares
from polycycle.modeling import RoutingRecord, evaluation_mode, frozen_expert_only, record_routing
from polycycle.routing import Router

# Rows of logits turned into float32 at a time: 1024 × 150k × 4 bytes is 0.6 GB.
_ROWS = 1024


@dataclass(slots=True)
class LayerTally:
    """Routing of one MoE layer, summed over tokens.

    Attributes:
        expert0_weight: sum of the frozen expert's share of each token's weights.
        assignments: [E] how often each expert was chosen.
        tokens: tokens counted.
        judged_original: tokens that the language classifier judged original, whatever a retention
            gate made of their text; None without a classifier.
    """

    expert0_weight: float
    assignments: Tensor
    tokens: int
    judged_original: int | None = None


@dataclass(slots=True)
class TextTally:
    """What was measured on text, as sums, so that parts add up.

    Attributes:
        nats: negative log-likelihood of all targets.
        tokens: targets scored.
        kl_nats: KL(base ‖ model) summed over targets; None where it was not asked for.
        layers: routing per MoE layer, by layer index; empty for a dense model.
    """

    nats: float = 0.0
    tokens: int = 0
    kl_nats: float | None = None
    layers: dict[int, LayerTally] = field(default_factory=dict)

    def bits_per_byte(self, num_bytes: int) -> float:
        """Bits that the model needs per UTF-8 byte of the text."""
        return self.nats / math.log(2) / num_bytes

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def expert0_share(self) -> float | None:
        """Frozen expert's share of the weight, averaged over layers; None for a dense model."""
        if not self.layers:
            return None
        shares = [layer.expert0_weight / layer.tokens for layer in self.layers.values()]
        return sum(shares) / len(shares)


def measure_text(
    model: Any, batches: Iterable[WindowBatch], *, with_kl: bool = False, with_routing: bool = True
) -> TextTally:
    """Likelihood, divergence from the base and routing over windows of held-out text.

    The model is put into evaluation mode for the measurement and back afterwards.

    Args:
        model: dense or upcycled, on any device.
        batches: windows in which each token is scored once.
        with_kl: run the frozen base beside (one more forward pass) and measure KL(base ‖ model).
        with_routing: record where tokens went, where the model has MoE layers.
    """
    is_moe = any(isinstance(module, Router) for module in model.modules())
    tally = TextTally(kl_nats=0.0 if with_kl and is_moe else None)
    with evaluation_mode(model):
        for batch in batches:
            _measure_batch(model, batch, tally, record=with_routing and is_moe)
    if tally.tokens == 0:
        raise ValueError("no token to score: the held-out text is empty")
    return tally


@torch.no_grad()
def _measure_batch(model: Any, batch: WindowBatch, tally: TextTally, *, record: bool) -> None:
    device = model.device
    input_ids = batch.input_ids.to(device)
    # Attention needs no mask, padding is on the right; a retention gate must not judge padding.
    mask = batch.is_real.long().to(device) if has_retention_gate(model) else None
    with record_routing(model) if record else nullcontext() as routing:
        out = model(input_ids=input_ids, attention_mask=mask, use_cache=False)
        logits = out.logits.flatten(0, 1)
    targets = batch.targets.to(device).flatten()
    base_logits = None
    if tally.kl_nats is not None:
        with frozen_expert_only():
            base = model(input_ids=input_ids, attention_mask=mask, use_cache=False)
            base_logits = base.logits.flatten(0, 1)
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        _score_rows(logits[rows], targets[rows], base_logits, rows, tally)
    if routing is not None:
        threshold = float(getattr(model.config, "classifier_threshold", 0.0))
        _tally_routing(routing, batch.is_real.to(device).flatten(), tally, threshold)


def has_retention_gate(model: Any) -> bool:
    """Whether the model has a gate that decides in evaluation."""
    return bool(getattr(model.config, "exact_retention", False))


def judges_whole_rows(model: Any) -> bool:
    """Whether language classifiers of the published form sum over each row of a call.

    Such a model is asked about one whole text per row: without padding, packing or a cache.
    """
    layers = getattr(model.config, "classifier_layers", None)
    return bool(layers) and model.config.classifier_form == "sequence"


def _score_rows(
    logits: Tensor, targets: Tensor, base_logits: Tensor | None, rows: slice, tally: TextTally
) -> None:
    scored = targets != IGNORED_LABEL
    log_probs = logits[scored].float().log_softmax(-1)
    nats = -log_probs.gather(-1, targets[scored, None])
    tally.nats += nats.double().sum().item()
    tally.tokens += int(scored.sum())
    if base_logits is not None and tally.kl_nats is not None:
        base = base_logits[rows][scored].float().log_softmax(-1)
        tally.kl_nats += (base.exp() * (base - log_probs)).sum(-1).double().sum().item()


def _tally_routing(
    routing: RoutingRecord, is_real: Tensor, tally: TextTally, threshold: float
) -> None:
    for layer in routing.layers:
        ids = layer.expert_ids[is_real]
        assignments = count_assignments(ids, layer.router_logits.shape[-1]).cpu()
        before = tally.layers.setdefault(
            layer.layer_index, LayerTally(0.0, torch.zeros_like(assignments), 0)
        )
        before.expert0_weight += frozen_shares(ids, layer.expert_weights[is_real]).sum().item()
        before.assignments += assignments
        before.tokens += len(ids)
        if layer.classifier_scores is not None:
            judged = int((layer.classifier_scores[is_real] > threshold).sum())
            before.judged_original = (before.judged_original or 0) + judged
