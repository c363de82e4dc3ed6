"""What a model can: text, questions, distance from its base, routing, similarity of languages."""

from polycycle.evaluation.choices import answer_questions
from polycycle.evaluation.scores import language_scores, routing_table
from polycycle.evaluation.similarity import feed_forward_blocks, mean_unit_vectors
from polycycle.evaluation.text import LayerTally, TextTally, measure_text

__all__ = [
    "LayerTally",
    "TextTally",
    "answer_questions",
    "feed_forward_blocks",
    "language_scores",
    "mean_unit_vectors",
    "measure_text",
    "routing_table",
]
