"""Exact retention in a model: its gate, told about every forward pass, and `generate`.

The gate stands before the first mixture layer; a context variable carries its decision to the
others. See `routing.gate` for what is decided, and why.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.errors import ConfigError
from polycycle.modeling.mode import evaluation_mode
from polycycle.routing import GatedCall

_gated_call: ContextVar[GatedCall | None] = ContextVar("gated_call", default=None)
_only_judging: ContextVar[bool] = ContextVar("only_judging", default=False)
_is_gate_off: ContextVar[bool] = ContextVar("is_gate_off", default=False)


class _JudgedError(Exception):
    """Ends a forward pass that was only to ask the gate; never seen outside `judge_original`."""

    def __init__(self, call: GatedCall) -> None:
        super().__init__("the retention gate has decided")
        self.call = call


@contextmanager
def _only_asking() -> Iterator[None]:
    """Within the block, a forward pass ends with `_JudgedError` once the gate has decided."""
    token = _only_judging.set(True)
    try:
        yield
    finally:
        _only_judging.reset(token)


@contextmanager
def without_retention_gate() -> Iterator[None]:
    """Within the block the gate scores but decides nothing: the mixture of experts computes all."""
    token = _is_gate_off.set(True)
    try:
        yield
    finally:
        _is_gate_off.reset(token)


def end_if_only_judging(call: GatedCall) -> None:
    """Called by the block that holds the gate, once it has decided."""
    if _only_judging.get():
        raise _JudgedError(call)


def gated_call() -> GatedCall | None:
    """The forward pass under way, if its model has a retention gate and is not being trained."""
    return _gated_call.get()


def watch_calls(decoder: Any) -> None:
    """Install the hooks that tell the gate about each forward pass of the decoder."""
    decoder.register_forward_pre_hook(_begin_call, with_kwargs=True)
    decoder.register_forward_hook(_end_call, always_call=True)


def _begin_call(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    # In training nothing is decided: the gate's scores are trained.
    call = None
    if not (module.training or _is_gate_off.get()):
        cache = kwargs.get("past_key_values")
        call = GatedCall(
            position_ids=kwargs.get("position_ids"),
            attention_mask=kwargs.get("attention_mask"),
            cache=cache,
            past=0 if cache is None else int(cache.get_seq_length()),
        )
    _gated_call.set(call)


def _end_call(module: nn.Module, args: Any, output: Any) -> None:
    call = _gated_call.get()
    if call is not None:
        call.keep_on(getattr(output, "past_key_values", None))
    _gated_call.set(None)


class RetentionMixin(nn.Module):
    """What a causal language model with a retention gate can do beside the dense one."""

    @torch.no_grad()
    def judge_original(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the retention gate makes of each prompt: [B] bool, True for an original language.

        Costs the layers before the first mixture of experts, and no more.

        Args:
            input_ids: [B, S].
            attention_mask: [B, S], 0 for padding.

        Raises:
            ConfigError: the model has no retention gate.
        """
        if not self.config.exact_retention:  # type: ignore[union-attr]
            raise ConfigError(
                "this model has no retention gate; upcycle with exact_retention and run the review"
            )
        positions = None
        if attention_mask is not None:
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        decoder: Any = self.model
        try:
            with evaluation_mode(decoder), _only_asking():
                decoder(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    position_ids=positions,
                    use_cache=False,
                )
        except _JudgedError as judged:
            original_BS = judged.call.original_BS
        assert original_BS is not None
        last = -1 if attention_mask is None else _last_real(attention_mask)
        return original_BS[torch.arange(len(input_ids)), last]

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As transformers' `generate`; a batch of original and expanded prompts is split in two.

        Only a call whose rows are all judged original is the dense model bit for bit.

        Raises:
            ConfigError: the model has a retention gate, and the call asks for a way of decoding in
                which it cannot keep its decision, or for more than token ids from a mixed batch.
        """
        generate: Callable[..., Any] = super().generate  # type: ignore[misc]
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        if not self.config.exact_retention or ids is None:  # type: ignore[union-attr]
            return generate(inputs, **kwargs)
        asked = partial(_asked, kwargs, self.generation_config)
        _refuse_what_the_gate_cannot_follow(asked)
        original = self.judge_original(ids, kwargs.get("attention_mask"))
        if original.all() or not original.any():
            return generate(inputs, **kwargs)
        parts = [
            (rows, generate(**_rows_of({**kwargs, "inputs": ids}, rows, len(ids))))
            for rows in (original.nonzero()[:, 0], (~original).nonzero()[:, 0])
        ]
        return _together(parts, len(ids), _fill_token(asked))


def _asked(kwargs: dict[str, Any], of_model: Any, name: str) -> Any:
    """A setting as `generate` reads it: of the call, else of its config, else of the model's."""
    if name in kwargs:
        return kwargs[name]
    given = (getattr(one, name, None) for one in (kwargs.get("generation_config"), of_model))
    return next((value for value in given if value is not None), None)


def _refuse_what_the_gate_cannot_follow(asked: Callable[[str], Any]) -> None:
    why_not = {
        "num_beams": (asked("num_beams") or 1) > 1 and "beams change places in the cache",
        "use_cache": asked("use_cache") is False and "the decision is kept beside the cache",
        "prefill_chunk_size": asked("prefill_chunk_size")
        and "a prompt is judged as a whole, not by its first part",
        "prompt_lookup_num_tokens": asked("prompt_lookup_num_tokens")
        and "tokens that are tried and dropped again would count",
        "assistant_model": asked("assistant_model") is not None
        and "tokens that are tried and dropped again would count",
    }
    for name, reason in why_not.items():
        if reason:
            raise ConfigError(
                f"{name}: {reason}, which the retention gate cannot follow; leave it out (greedy "
                "decoding and sampling work), or use a model without exact_retention"
            )


def _last_real(attention_mask: Tensor) -> Tensor:
    """Position of each row's last token that is not padding, [B]."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (positions * attention_mask.bool()).argmax(-1)


def _rows_of(kwargs: dict[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
    """The keyword arguments of `generate` for some rows of the batch."""
    kwargs.pop("input_ids", None)
    return {
        name: value[rows] if isinstance(value, Tensor) and value.shape[:1] == (batch,) else value
        for name, value in kwargs.items()
    }


def _fill_token(asked: Callable[[str], Any]) -> int:
    """What `generate` fills a row with that ended: padding, or else the first end of text."""
    eos = asked("eos_token_id")
    first_eos = eos[0] if isinstance(eos, list) else eos
    return next((token for token in (asked("pad_token_id"), first_eos) if token is not None), 0)


def _together(parts: list[tuple[Tensor, Any]], batch: int, fill: int) -> Tensor:
    """The parts' token ids in the batch's own order, padded on the right with `fill`."""
    if not all(isinstance(ids, Tensor) for _, ids in parts):
        raise ConfigError(
            "return_dict_in_generate: this batch holds original and expanded prompts, which are "
            "generated apart; call generate for each (model.judge_original tells them apart)"
        )
    # Several answers to a prompt stand next to each other.
    answers = len(parts[0][1]) // len(parts[0][0])
    longest = max(ids.shape[1] for _, ids in parts)
    whole: Tensor = parts[0][1].new_full((batch * answers, longest), fill)
    for rows, ids in parts:
        places = (rows[:, None] * answers + torch.arange(answers, device=rows.device)).flatten()
        whole[places, : ids.shape[1]] = ids
    return whole
