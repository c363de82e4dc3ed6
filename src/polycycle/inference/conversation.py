"""A model that answers: the text so far, what it wrote, and the cache that spares reading twice."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, TextStreamer

from polycycle.data import document_policy, end_tokens
from polycycle.errors import ConfigError, DataError
from polycycle.inference.loading import Speaker
from polycycle.inference.trace import RoutingTrace, trace_tokens
from polycycle.inference.watching import refuse_unwatchable, watch_experts

Ending = Literal["end", "length", "stopped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 always takes the most probable token.
        top_p: sample from the most probable tokens that together have this probability.
        max_new_tokens: the longest answer.
        seed: makes what is sampled the same again.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: without special tokens.
        num_tokens: the special ones counted.
        ending: the model ended it, it is as long as was allowed, or somebody stopped it.
        trace: which experts its tokens used; None unless they were watched.
    """

    text: str
    num_tokens: int
    ending: Ending
    trace: RoutingTrace | None


class Conversation:
    """One text that a user and a model write in turns.

    With a chat template, turns are its messages. Without one, every answer goes on from all that
    was written before: in a new line of the same text, or in a new document where the model has
    ended the last.

    The key-value cache is kept from turn to turn while what it holds stands unchanged at the
    beginning of the next prompt. A model with a retention gate reads every prompt anew, because the
    gate judges a prompt as a whole; one whose classifiers judge sequences never has a cache.

    Args:
        speaker: the model; its generation settings are replaced.
        sampling: how it writes.
        with_template: whether turns go through the tokenizer's chat template.
        with_trace: whether answers say which experts their tokens used.

    Raises:
        ConfigError: there is no chat template, or no expert to be traced.
    """

    def __init__(
        self,
        speaker: Speaker,
        sampling: Sampling,
        *,
        with_template: bool,
        with_trace: bool = False,
    ) -> None:
        name = speaker.checkpoint.name
        if with_template and not has_template(speaker):
            raise ConfigError(
                f"{name}: its tokenizer has no chat template, so there is no form in which it was "
                "taught to answer; let it go on from a text instead"
            )
        if with_trace:
            refuse_unwatchable(speaker.checkpoint)
        self.speaker = speaker
        self._sampling = sampling
        self._with_template = with_template
        self._with_trace = with_trace
        config = speaker.model.config
        self._positions: int | None = getattr(config, "max_position_embeddings", None)
        self._has_cache = getattr(config, "classifier_form", "token") == "token"
        self._keeps_cache = self._has_cache and not getattr(config, "exact_retention", False)
        self._ends = end_tokens(speaker.model, speaker.tokenizer)
        self.reset()

    def reset(self) -> None:
        """Forget all turns; a seed counts from here again."""
        self._messages: list[dict[str, str]] = []
        self._ids: list[int] = []
        self._cache: Any = None
        if self._sampling.seed is not None:
            torch.manual_seed(self._sampling.seed)

    def answer(
        self,
        text: str,
        *,
        emit: Callable[[str], None] = lambda piece: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """What the model writes after `text`; the conversation goes on from there.

        After an exception the conversation is as it was before the call.

        Args:
            text: the user's turn.
            emit: called with pieces of the answer as they are written.
            is_stopped: asked after every token; True ends the answer there.

        Raises:
            ConfigError: the model has no positions left for an answer.
            DataError: the chat template does not take this conversation, or there is no text.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = self._templated(messages) if self._with_template else self._continued(text)
        if not prompt:
            raise DataError("the prompt is empty, and the tokenizer has no token to begin with")
        cache = self._cache_for(prompt)
        num_cached = 0 if cache is None else cache.get_seq_length()
        self._cache = None  # whoever interrupts may leave some layers a token ahead of others
        watching = watch_experts(self.speaker) if self._with_trace else nullcontext()
        with watching as watched:
            ids = self._write(prompt, cache, emit, is_stopped)
        trace = None
        if watched is not None:
            first = len(prompt) if self._with_template else len(self._ids)
            trace = trace_tokens(
                self.speaker.tokenizer, ids, watched.layers(), first=first, num_cached=num_cached
            )
        written = ids[len(prompt) :]
        answer = self.speaker.tokenizer.decode(written, **_PLAIN)
        self._ids, self._cache = ids, cache if self._keeps_cache else None
        self._messages = [*messages, {"role": "assistant", "content": answer}]
        ending: Ending = "stopped" if is_stopped() else "length"
        return Answer(
            text=answer,
            num_tokens=len(written),
            ending="end" if ids[-1] in self._ends else ending,
            trace=trace,
        )

    def _templated(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            given = self.speaker.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from error
        return list(given["input_ids"])

    def _continued(self, text: str) -> list[int]:
        """All that was written, and a new line; or a start token, where it is a new document."""
        tokenizer = self.speaker.tokenizer
        if not self._ids:
            return [*_start_tokens(tokenizer), *_ids_of(tokenizer, text)]
        is_ended = self._ids[-1] in self._ends
        return [*self._ids, *_ids_of(tokenizer, text if is_ended else f"\n{text}")]

    def _cache_for(self, prompt: list[int]) -> Any:
        """The kept cache where it holds the beginning of the prompt, else an empty one."""
        if not self._has_cache:
            return None
        if self._cache is not None:
            held = self._ids[: self._cache.get_seq_length()]
            if len(held) < len(prompt) and prompt[: len(held)] == held:
                return self._cache
        return DynamicCache(config=self.speaker.model.config)

    @torch.no_grad()
    def _write(
        self,
        prompt: list[int],
        cache: Any,
        emit: Callable[[str], None],
        is_stopped: Callable[[], bool],
    ) -> list[int]:
        """Ids of the prompt and of what the model wrote after it."""
        model: Any = self.speaker.model
        # Put in place, not passed along: what a passed one leaves open, transformers fills in from
        # the model's own, repetition penalties among it.
        model.generation_config = self._settings(len(prompt))

        def criterion(ids: Tensor, scores: Any) -> Tensor:
            return torch.full((len(ids),), is_stopped(), device=ids.device)

        prompt_1P = torch.tensor([prompt], device=model.device)
        ids: Tensor = model.generate(
            prompt_1P,
            attention_mask=torch.ones_like(prompt_1P),
            past_key_values=cache,
            stopping_criteria=[criterion],
            streamer=_Emitter(self.speaker.tokenizer, emit),
        )
        return [int(token) for token in ids[0]]

    def _settings(self, prompt_tokens: int) -> GenerationConfig:
        new = self._sampling.max_new_tokens
        if self._positions is not None:
            new = min(new, self._positions - prompt_tokens)
        if new < 1:
            raise ConfigError(
                f"the text has {prompt_tokens} tokens already, and the model has positions for "
                f"{self._positions}; begin anew (in a chat: /reset)"
            )
        is_sampled = self._sampling.temperature > 0
        how: dict[str, Any] = {"do_sample": False}
        if is_sampled:
            how = {
                "do_sample": True,
                "temperature": self._sampling.temperature,
                "top_p": self._sampling.top_p,
                "top_k": 0,
            }
        return GenerationConfig(
            **how,
            max_new_tokens=new,
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else None,
            use_cache=self._has_cache,
        )


def has_template(speaker: Speaker) -> bool:
    """Whether the tokenizer says in which form the model was taught to chat."""
    return bool(speaker.tokenizer.chat_template)


def _start_tokens(tokenizer: Any) -> list[int]:
    """What a document begins with in training and evaluation: BOS, else the end of the last one."""
    if tokenizer.eos_token_id is None:
        return list(tokenizer("").input_ids)
    return [document_policy(tokenizer).start]


def _ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


_PLAIN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


class _Emitter(TextStreamer):
    """Hands on words as they are finished, and nothing of the prompt."""

    def __init__(self, tokenizer: Any, emit: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, **_PLAIN)
        self._emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._emit(text)
