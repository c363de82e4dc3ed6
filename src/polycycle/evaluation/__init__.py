"""What a model can: text, questions, tasks; distance from its base, routing, similarity."""

from polycycle.evaluation.choices import answer_questions
from polycycle.evaluation.generation import complete_prompts, score_completions
from polycycle.evaluation.retention import (
    GatedTexts,
    judge_mixed,
    measure_gate,
    retention_trade,
)
from polycycle.evaluation.scores import language_scores, routing_table
from polycycle.evaluation.similarity import feed_forward_blocks, mean_unit_vectors
from polycycle.evaluation.speed import prefill_speed
from polycycle.evaluation.text import (
    LayerTally,
    TextTally,
    has_retention_gate,
    judges_whole_rows,
    measure_text,
)
from polycycle.evaluation.usage import jensen_shannon, usage_entropy

__all__ = [
    "GatedTexts",
    "LayerTally",
    "TextTally",
    "answer_questions",
    "complete_prompts",
    "feed_forward_blocks",
    "has_retention_gate",
    "jensen_shannon",
    "judge_mixed",
    "judges_whole_rows",
    "language_scores",
    "mean_unit_vectors",
    "measure_gate",
    "measure_text",
    "prefill_speed",
    "retention_trade",
    "routing_table",
    "score_completions",
    "usage_entropy",
]
