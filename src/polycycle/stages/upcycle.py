"""The upcycling that a recipe asks for."""

from polycycle.checkpoint import Checkpoint
from polycycle.config import Recipe
from polycycle.surgery import UpcyclePlan, plan_upcycle


def plan_recipe(recipe: Recipe, base: Checkpoint) -> UpcyclePlan:
    """Tensors and config of the recipe's upcycled model; nothing is read but headers."""
    experts = recipe.experts
    classifier = experts.classifier
    return plan_upcycle(
        base,
        num_experts=experts.num_experts,
        top_k=experts.top_k,
        renormalize=experts.renormalize,
        init=experts.init,
        seed=recipe.seed,
        classifier_layers=() if classifier is None else classifier.layers,
        classifier_form="token" if classifier is None else classifier.form,
        languages=recipe.languages.groups(),
    )
