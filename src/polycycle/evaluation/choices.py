"""Multiple-choice questions by likelihood: the most probable choice is the answer.

Letters: Q questions of a group with prompts of P tokens, C choices, T tokens of the longest.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polycycle.data import DocumentPolicy, Question
from polycycle.evaluation.text import has_retention_gate, judges_whole_rows
from polycycle.modeling import evaluation_mode


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A question as tokens; all prompts of a group have the same length, so none is padded."""

    prompt: list[int]
    choices: list[list[int]]
    answer: int


def answer_questions(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    policy: DocumentPolicy,
    batch_tokens: int = 8192,
) -> list[bool]:
    """Whether each question is answered rightly.

    A choice's score is the sum of its tokens' log-probabilities given the prompt, which follows a
    start token. Each prompt is computed once; its key-value cache serves all its choices. (Where
    classifiers judge whole rows, every choice is computed with its prompt, in a row of its own.)

    Args:
        model: dense or upcycled.
        tokenizer: the model's.
        questions: what to ask.
        policy: the start token.
        batch_tokens: tokens per forward pass.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    encoded = [_encode(tokenizer, question, policy) for question in questions]
    for index, one in enumerate(encoded):
        groups[len(one.prompt), len(one.choices)].append(index)
    is_right = [False] * len(questions)
    score = _score_whole_rows if judges_whole_rows(model) else _score
    with evaluation_mode(model):
        for (_, num_choices), members in groups.items():
            longest = max(len(c) for i in members for c in encoded[i].choices)
            tokens_each = num_choices * (len(encoded[members[0]].prompt) + longest)
            size = max(1, batch_tokens // tokens_each)
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                best = score([encoded[index] for index in batch], model).argmax(-1).tolist()
                for index, choice in zip(batch, best, strict=True):
                    is_right[index] = choice == encoded[index].answer
    return is_right


def _encode(tokenizer: Any, question: Question, policy: DocumentPolicy) -> _Encoded:
    """Prompt and choices as tokens of the joined text, cut where the prompt's own tokens end."""
    prompt = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
    joined = [question.prompt + choice for choice in question.choices]
    choices = [
        ids[len(prompt) :] for ids in tokenizer(joined, add_special_tokens=False)["input_ids"]
    ]
    return _Encoded([policy.start, *prompt], choices, question.answer)


@torch.no_grad()
def _score(batch: list[_Encoded], model: Any) -> Tensor:
    """Log-probability of every choice, [Q, C] float32."""
    device = model.device
    num_choices = len(batch[0].choices)
    prompts = torch.tensor([one.prompt for one in batch], device=device)
    out = model(input_ids=prompts, use_cache=True)
    first = out.logits[:, -1].float().log_softmax(-1).repeat_interleave(num_choices, 0)
    choices = [choice for one in batch for choice in one.choices]
    longest = max(map(len, choices))
    ids = torch.tensor([c + [0] * (longest - len(c)) for c in choices], device=device)
    is_real = torch.tensor(
        [[1.0] * len(c) + [0.0] * (longest - len(c)) for c in choices], device=device
    )
    scores = first.gather(1, ids[:, :1]).squeeze(1)
    if longest > 1:
        cache = out.past_key_values
        cache.batch_repeat_interleave(num_choices)
        # Padding is on the right, after everything that counts, so attention needs no mask; a
        # retention gate must not judge padding.
        mask = None
        if has_retention_gate(model):
            before = is_real.new_ones(len(ids), prompts.shape[1])
            mask = torch.cat([before, is_real[:, :-1]], 1).long()
        rest = model(
            input_ids=ids[:, :-1], attention_mask=mask, past_key_values=cache, use_cache=True
        ).logits
        steps = rest.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        scores = scores + (steps * is_real[:, 1:]).sum(-1)
    table: Tensor = scores.reshape(len(batch), num_choices)
    return table


@torch.no_grad()
def _score_whole_rows(batch: list[_Encoded], model: Any) -> Tensor:
    """As `_score`, by one call per choice: no cache, and no padding."""
    table = []
    for one in batch:
        row = []
        for choice in one.choices:
            ids = torch.tensor([one.prompt + choice], device=model.device)
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(choice) :]
            log_probs = logits.float().log_softmax(-1)
            row.append(log_probs.gather(-1, ids[0, -len(choice) :, None]).sum())
        table.append(torch.stack(row))
    return torch.stack(table)
