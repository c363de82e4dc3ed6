"""Which parameters each training stage may move."""

from typing import Literal

from torch import nn

from polycycle.modeling import NewExperts
from polycycle.routing import LanguageClassifier, RetentionGate, Router

TrainingStage = Literal["post_pretrain", "review"]


def freeze_for(model: nn.Module, stage: TrainingStage) -> list[str]:
    """Set `requires_grad` for a stage and give the names of what it trains.

    Post-pretraining trains new experts and routers, review the routers, the language classifiers
    and the retention gate before them. Everything that came from the dense model, expert 0
    included, is frozen in both.

    Source: MoE-LPR, arXiv:2408.11396, §3.1–3.2; classifiers: LayerMoE, arXiv:2505.22582.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained = (Router,) if stage == "review" else (Router, NewExperts)
    for module in model.modules():
        if isinstance(module, trained):
            for parameter in module.parameters():
                parameter.requires_grad_(True)
        if isinstance(module, LanguageClassifier | RetentionGate):
            module.weight.requires_grad_(stage == "review")
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
