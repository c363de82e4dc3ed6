"""Generation tasks: answers that the model writes, and how right they are.

Letters: B prompts of a batch, P tokens of each.
"""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jinja2 import TemplateError
from sacrebleu.metrics import CHRF
from torch import Tensor
from transformers import GenerationConfig

from polycycle.data import DocumentPolicy, end_tokens
from polycycle.errors import DataError
from polycycle.evaluation.text import judges_whole_rows
from polycycle.modeling import evaluation_mode
from polycycle.results import TaskScore


def complete_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    policy: DocumentPolicy,
    with_template: bool = False,
    max_new_tokens: int = 64,
    batch_tokens: int = 8192,
) -> list[str]:
    """What the model writes after each prompt, always taking the most probable token.

    A completion ends before its first newline or end token, of documents or the model's own: a
    model that was never taught to stop starts a new line instead, and goes on. An answer to a chat
    template may begin with newlines, which are passed over. But for rounding it depends on its own
    prompt alone: only prompts of the same number of tokens go together, so none
    is padded.

    Args:
        model: dense or upcycled; of the generation settings that came with it only the end tokens
            are used.
        tokenizer: the model's.
        prompts: what to complete; each follows a start token.
        policy: start and end-of-document token.
        with_template: put each prompt, as a user's message, through the tokenizer's chat template,
            which writes the start, too.
        max_new_tokens: the longest completion, in tokens.
        batch_tokens: tokens in the cache at once, prompts and completions together.

    Raises:
        DataError: the chat template refuses a prompt.
    """
    if with_template:
        ids = [as_message(tokenizer, prompt) for prompt in prompts]
    else:
        ids = [
            [policy.start, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
            for prompt in prompts
        ]
    ends = list(dict.fromkeys((policy.eos, *end_tokens(model, tokenizer))))
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(ids):
        by_length[len(prompt)].append(index)
    completions = [""] * len(prompts)
    with _greedy(model, ends, max_new_tokens):
        for length, members in by_length.items():
            size = max(1, batch_tokens // (length + max_new_tokens))
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                prompts_BP = torch.tensor([ids[index] for index in batch], device=model.device)
                texts = _write(model, tokenizer, prompts_BP, ends, passes_newlines=with_template)
                for index, text in zip(batch, texts, strict=True):
                    completions[index] = text
    return completions


def as_message(tokenizer: Any, prompt: str) -> list[int]:
    """What a chat template makes of a user's message, up to where the answer begins.

    Raises:
        DataError: it refuses the prompt.
    """
    message = {"role": "user", "content": prompt}
    try:
        given = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, return_dict=True
        )
    except TemplateError as error:
        raise DataError(f"the chat template refuses the prompt {prompt!r}: {error}") from error
    return list(given["input_ids"])


@contextmanager
def _greedy(model: Any, ends: list[int], max_new_tokens: int) -> Iterator[None]:
    """Within the block the model is in evaluation mode, and `generate` is plain greedy decoding."""
    usual = model.generation_config
    # Put in place, not passed along: what a passed one leaves open, transformers fills in from the
    # model's own, repetition penalties among it.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
        use_cache=not judges_whole_rows(model),
    )
    try:
        with evaluation_mode(model):
            yield
    finally:
        model.generation_config = usual


def _write(
    model: Any, tokenizer: Any, prompts_BP: Tensor, ends: list[int], *, passes_newlines: bool
) -> list[str]:
    """The completion of each prompt up to its end, which leading newlines are or are not."""
    begin = prompts_BP.shape[1]

    def is_at_newline(ids: Tensor, scores: Any) -> Tensor:
        if passes_newlines:
            written = [text.lstrip("\n") for text in tokenizer.batch_decode(ids[:, begin:])]
        else:
            written = tokenizer.batch_decode(ids[:, -1:])
        return torch.tensor(["\n" in text for text in written], device=ids.device)

    whole = model.generate(
        prompts_BP,
        attention_mask=torch.ones_like(prompts_BP),
        stopping_criteria=[is_at_newline],
    )
    # A row that has ended goes on with end tokens; an end that is no special token is no text, too.
    texts = tokenizer.batch_decode(
        [_before(ends, row) for row in whole[:, begin:].tolist()],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [(text.lstrip("\n") if passes_newlines else text).split("\n", 1)[0] for text in texts]


def _before(ends: list[int], tokens: list[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


def score_completions(
    completions: Sequence[str],
    references: Sequence[str],
    *,
    forms: Sequence[str | None] = (),
) -> TaskScore:
    """How many completions are right letter for letter, and how near the rest come.

    White space around a text, and how Unicode composes its letters (NFC), make no difference.

    Args:
        completions: what was written; at least one.
        references: what is right, in the same order.
        forms: regular expressions, in the same order, that a completion in the asked form matches
            as a whole; None, or no sequence, where no form is asked for.

    Source: chrF, Popović 2015, as sacreBLEU computes it: over the whole corpus, with six character
        n-grams and β = 2.
    """
    written = [_normal(text) for text in completions]
    right = [_normal(text) for text in references]
    matches = sum(one == other for one, other in zip(written, right, strict=True))
    asked = zip(written, forms, strict=bool(forms))
    kept = [re.fullmatch(form, text) is not None for text, form in asked if form is not None]
    return TaskScore(
        examples=len(written),
        exact_match=matches / len(written),
        chrf=CHRF().corpus_score(written, [right]).score,
        in_form=sum(kept) / len(kept) if kept else None,
    )


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())
