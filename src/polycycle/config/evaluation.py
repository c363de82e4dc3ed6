"""Section `evaluation`: what is measured, and how much of it."""

from typing import Annotated

from pydantic import Field

from polycycle.config.section import Count, Section


class EvaluationConfig(Section):
    """What is measured before and after."""

    valid_bytes: Count = 1_000_000
    """UTF-8 bytes of held-out text per language."""
    max_questions: Count | None = None
    """Questions per language; all by default."""
    max_task_examples: Count | None = 200
    """Examples per generation task and language, the first of the file; null takes all."""
    max_new_tokens: Count = 64
    """Tokens that an answer to a generation task may have; it ends at its first newline."""
    context_length: Annotated[int, Field(ge=8)] | None = None
    """Window for long documents; by default the model's own, at most 2048. Say what the base was
    trained on if that is less: beyond it bits per byte rise whatever the language."""
    batch_tokens: Count = 8192
    """Tokens per forward pass."""
