"""Which parameters each training stage may move."""

from typing import Any, Literal

from torch import nn

from polycycle.modeling import MoeBlockMixin
from polycycle.routing import LanguageClassifier, RetentionGate, Router

TrainingStage = Literal["post_pretrain", "review"]
Trains = Literal["new_experts", "everything"]


def freeze_for(
    model: nn.Module, stage: TrainingStage, *, trains: Trains = "new_experts"
) -> list[str]:
    """Set `requires_grad` for a stage and give the names of what it trains.

    Post-pretraining trains the experts and router rows of the newest language group (all router
    rows where growing drew them anew), review all routers, the language classifiers and the
    retention gate. Everything that came from the dense model, expert 0 included, is frozen in both.

    Args:
        model: an upcycled model.
        stage: which one.
        trains: `everything` lets post-pretraining move the dense model's tensors, too: a baseline.

    Source: MoE-LPR, arXiv:2408.11396, §3.1–3.2; classifiers: LayerMoE, arXiv:2505.22582.
    """
    model.requires_grad_(stage == "post_pretrain" and trains == "everything")
    config: Any = model.config
    newest = newest_group(model)
    trains_all_rows = stage == "review" or config.routers_redrawn_for == newest
    for module in model.modules():
        if isinstance(module, Router) and trains_all_rows:
            module.requires_grad_(True)
        elif isinstance(module, MoeBlockMixin) and stage == "post_pretrain":
            _train_newest_group(module, newest)
    for module in model.modules():  # after the routers that hold them
        if isinstance(module, LanguageClassifier | RetentionGate):
            module.requires_grad_(stage == "review")
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def newest_group(model: nn.Module) -> str:
    """Name of the language group that was added last: `g1` after upcycling."""
    config: Any = model.config
    return f"g{len(config.new_experts_by_group)}"


def _train_newest_group(block: MoeBlockMixin, newest: str) -> None:
    if newest in block.experts:
        block.experts[newest].requires_grad_(True)
        block.router.rows[newest].requires_grad_(True)
