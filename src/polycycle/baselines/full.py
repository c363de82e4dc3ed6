"""Full fine-tuning: every parameter of the dense model trains."""

from torch import nn


def train_everything(model: nn.Module) -> None:
    """Set `requires_grad` for all parameters; tied ones are one parameter."""
    model.requires_grad_(True)
