"""How fast models read and write: they take turns, since other work disturbs every machine.

Letters: N tokens of a text, B texts at once, T tokens of each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from polycycle.modeling import evaluation_mode, frozen_expert_only
from polycycle.results import Pace, RetentionSpeed
from polycycle.routing import RetentionGate

_KINDS = ("base", "kept", "mixture")
_ROUNDS = 7
_FEWEST_ROUNDS = 3
_WARM_UP_TOKENS = 128
_LONGEST = 512
_ROWS = 4

Turn = Callable[[], float]
"""Does a piece of work and says how many seconds that took."""


def take_turns(
    contestants: Mapping[str, Turn], *, rounds: int = _ROUNDS, seconds: float = math.inf
) -> dict[str, list[float]]:
    """The seconds of each contestant's turns, round by round.

    In a round each has one turn, so a slow moment of the machine hits all alike and ratios within a
    round are the most reliable; each round begins with another one, so nobody is always the one
    that finds its predecessor's data in the caches.

    Args:
        contestants: by name.
        rounds: at most so many.
        seconds: after so long no round is begun, but three there are.
    """
    names = list(contestants)
    taken: dict[str, list[float]] = {name: [] for name in names}
    started = perf_counter()
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS and perf_counter() - started > seconds:
            break
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            taken[name].append(contestants[name]())
    return taken


@torch.no_grad()
def measure_paces(
    models: Mapping[str, Any],
    tokens: Tensor,
    *,
    prefill: tuple[int, int] = (4, 256),
    decode_batches: Sequence[int] = (1, 8),
    prompt_tokens: int = 32,
    decode_tokens: int = 64,
    rounds: int = _ROUNDS,
    seconds: float = math.inf,
) -> dict[str, tuple[Pace, ...]]:
    """How fast each model reads and writes, beside the first.

    Reading computes logits of the last token only, as generation does. Writing is greedy and goes
    on after an end of text; its time is that of the tokens after the prompt.

    Args:
        models: by name, on one device; the first is the base.
        tokens: int [N] of running text, gone over again where it is too short.
        prefill: B and T of reading.
        decode_batches: every B of writing.
        prompt_tokens: T of what stands before.
        decode_tokens: tokens that are written, of each text.
        rounds: turns of each model at each kind of work.
        seconds: of each kind of work; slower models have fewer turns, at least three.
    """
    works: list[tuple[Literal["prefill", "decode"], int, int, Callable[..., float]]] = [
        ("prefill", *prefill, _read),
        *(
            ("decode", batch, decode_tokens, partial(_write, num_tokens=decode_tokens))
            for batch in decode_batches
        ),
    ]
    paces: dict[str, list[Pace]] = {name: [] for name in models}
    with evaluation_mode(*models.values()):
        for work, batch, length, turn in works:
            ids_BT = _texts(tokens, batch, length if work == "prefill" else prompt_tokens)
            turns = {name: partial(turn, model, ids_BT) for name, model in models.items()}
            take_turns(turns, rounds=1)  # for what is done only once
            taken = take_turns(turns, rounds=rounds, seconds=seconds)
            base = next(iter(taken.values()))
            for name, times in taken.items():
                paces[name].append(_pace(work, batch, length, times, base))
    return {name: tuple(found) for name, found in paces.items()}


def _pace(
    work: Literal["prefill", "decode"],
    batch: int,
    length: int,
    times: Sequence[float],
    base: Sequence[float],
) -> Pace:
    rates = [batch * length / time for time in times]
    ratios = [theirs / mine for mine, theirs in zip(times, base, strict=True)]
    return Pace(
        work=work,
        batch=batch,
        length=length,
        tokens_per_second=median(rates),
        quartiles=_quartiles(rates),
        of_base=median(ratios),
        of_base_quartiles=_quartiles(ratios),
        rounds=len(times),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _texts(tokens: Tensor, batch: int, length: int) -> Tensor:
    places = torch.arange(batch * length) % len(tokens)
    return tokens[places].reshape(batch, length).long()


def _read(model: Any, ids_BT: Tensor) -> float:
    """Seconds of one forward pass over whole texts."""
    ids = ids_BT.to(model.device, torch.long)
    _wait(model)
    start = perf_counter()
    model(input_ids=ids, use_cache=False, logits_to_keep=1)
    _wait(model)
    return perf_counter() - start


def _write(model: Any, ids_BT: Tensor, *, num_tokens: int) -> float:
    """Seconds of the tokens after the prompt, one forward pass each."""
    out = model(input_ids=ids_BT.to(model.device), use_cache=True, logits_to_keep=1)
    _wait(model)
    start = perf_counter()
    for _ in range(num_tokens):
        ids = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=ids, past_key_values=out.past_key_values, use_cache=True)
    _wait(model)
    return perf_counter() - start


def _wait(model: Any) -> None:
    """A GPU is given its work and goes on alone."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()


# What a text gains that the retention gate keeps


@torch.no_grad()
def prefill_speed(
    model: Any, tokens: Tensor, *, context_length: int, seconds: float = 3.0
) -> RetentionSpeed:
    """Tokens per second of original text, by the base, kept by the gate, and by the mixture.

    The three take turns; medians of seven. The base is the one inside the model: its own blocks run
    and nothing else (`frozen_expert_only`). Logits are computed for the last token only, as in
    generation.

    Args:
        model: with a retention gate, on any device.
        tokens: int [N] of running text; its beginning is read, at most 4 × 512.
        context_length: the longest T.
        seconds: roughly how long it may take; slower models read fewer tokens.
    """

    def kinds(ids_BT: Tensor) -> dict[str, Turn]:
        return {kind: partial(_read_as, kind, model, ids_BT) for kind in _KINDS}

    with evaluation_mode(model):
        warm_up = kinds(tokens[None, :_WARM_UP_TOKENS])
        take_turns(warm_up, rounds=1)  # for what is done only once
        slowest = max(times[0] for times in take_turns(warm_up, rounds=1).values())
        affordable = int(seconds / (len(_KINDS) * _ROUNDS * slowest) * _WARM_UP_TOKENS)
        length = min(context_length, _LONGEST, len(tokens), max(affordable, _WARM_UP_TOKENS))
        rows = max(min(_ROWS, len(tokens) // length, affordable // length), 1)
        batch_BT = tokens[: rows * length].reshape(rows, length)
        taken = take_turns(kinds(batch_BT), rounds=_ROUNDS)
    speed = {kind: batch_BT.numel() / median(times) for kind, times in taken.items()}
    return RetentionSpeed(
        **speed,
        batch=rows,
        length=length,
        repeats=_ROUNDS,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _read_as(kind: str, model: Any, ids_BT: Tensor) -> float:
    with _as(model, kind):
        return _read(model, ids_BT)


@contextmanager
def _as(model: Any, kind: str) -> Iterator[None]:
    """The base alone, or a gate that keeps everything, or one that keeps nothing."""
    if kind == "base":
        with frozen_expert_only():
            yield
        return
    (gate,) = [module for module in model.modules() if isinstance(module, RetentionGate)]
    threshold = gate.threshold
    gate.threshold = -math.inf if kind == "kept" else math.inf
    try:
        yield
    finally:
        gate.threshold = threshold
