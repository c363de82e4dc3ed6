"""What a model can: text, questions, tasks; distance from its base, routing, similarity."""

from polycycle.evaluation.choices import answer_questions
from polycycle.evaluation.comet import comet_score
from polycycle.evaluation.generation import as_message, complete_prompts, score_completions
from polycycle.evaluation.harness import (
    Plan,
    PlannedTask,
    lm_eval_version,
    load_language_model,
    measure_task,
    plan_benchmarks,
    run_lm_eval,
)
from polycycle.evaluation.retention import (
    GatedTexts,
    judge_mixed,
    measure_gate,
    retention_trade,
)
from polycycle.evaluation.scores import language_scores, routing_table
from polycycle.evaluation.similarity import feed_forward_blocks, mean_unit_vectors, watch_inputs
from polycycle.evaluation.speed import measure_paces, prefill_speed, take_turns
from polycycle.evaluation.suites import SUITES
from polycycle.evaluation.text import (
    LayerTally,
    TextTally,
    has_retention_gate,
    judges_whole_rows,
    measure_text,
)
from polycycle.evaluation.usage import (
    count_assignments,
    frozen_shares,
    jensen_shannon,
    usage_entropy,
)

__all__ = [
    "SUITES",
    "GatedTexts",
    "LayerTally",
    "Plan",
    "PlannedTask",
    "TextTally",
    "answer_questions",
    "as_message",
    "comet_score",
    "complete_prompts",
    "count_assignments",
    "feed_forward_blocks",
    "frozen_shares",
    "has_retention_gate",
    "jensen_shannon",
    "judge_mixed",
    "judges_whole_rows",
    "language_scores",
    "lm_eval_version",
    "load_language_model",
    "mean_unit_vectors",
    "measure_gate",
    "measure_paces",
    "measure_task",
    "measure_text",
    "plan_benchmarks",
    "prefill_speed",
    "retention_trade",
    "routing_table",
    "run_lm_eval",
    "score_completions",
    "take_turns",
    "usage_entropy",
    "watch_inputs",
]
