"""What a model can: text, questions, distance from its base, routing."""

from polycycle.evaluation.choices import answer_questions
from polycycle.evaluation.scores import language_scores, routing_table
from polycycle.evaluation.text import LayerTally, TextTally, measure_text

__all__ = [
    "LayerTally",
    "TextTally",
    "answer_questions",
    "language_scores",
    "measure_text",
    "routing_table",
]
