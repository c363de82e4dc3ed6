"""Measuring a model in the midst of its training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Within the block the models are in evaluation mode; afterwards each is as it was."""
    before = [(model, model.training) for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, was_training in before:
            model.train(was_training)
