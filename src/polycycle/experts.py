"""What every room knows about experts."""

FROZEN_EXPERT = 0
"""Index of the original feed-forward block in every layer: never trained, never moved."""

NO_EXPERT = -1
"""In place of an expert's index: this choice of the token is left empty."""
