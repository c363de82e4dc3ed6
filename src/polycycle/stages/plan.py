"""What a recipe will cost, before anything is done: tokens, steps, parameters, memory, disk."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import BASELINES, AnyBaseline, Recipe, TrainConfig
from polycycle.stages.baseline import START_STAGES
from polycycle.stages.baseline_model import (
    adds_to_base,
    fill_start,
    model_without_weights,
    plan_start,
    prepare_unscored,
)
from polycycle.stages.post_train import POST_TRAIN
from polycycle.stages.siblings import sibling_name
from polycycle.stages.train import REVIEW_GRAFTED, stage_name
from polycycle.stages.upcycle import plan_recipe
from polycycle.surgery import count_active, count_trainable

_PROBE_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One training stage, forecast.

    Attributes:
        stage: its name.
        tokens: to train on; None where only reading the documents will tell.
        steps: optimizer steps; None likewise.
        parameters_trainable: with gradients and optimizer state.
        memory_bytes: weights in float32, gradients, two Adam moments, and the activations of one
            micro-batch estimated as 34 × hidden size × layers × tokens × 4 bytes plus its logits.
    """

    stage: str
    tokens: int | None
    steps: int | None
    parameters_trainable: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run, forecast.

    Attributes:
        parameters_total: of the upcycled model, or of a baseline's.
        parameters_active: per token.
        num_experts_per_layer: with the frozen expert; 1 is a dense layer.
        checkpoint_bytes: one such model on disk.
        disk_bytes: the whole run folder: a model per stage, and two training checkpoints.
        stages: the training stages.
        folders: every folder that the run will write, in order.
    """

    parameters_total: int
    parameters_active: int
    num_experts_per_layer: list[int]
    checkpoint_bytes: int
    disk_bytes: int
    stages: tuple[StagePlan, ...]
    folders: tuple[str, ...]


def plan_run(recipe: Recipe) -> RunPlan:
    """Forecast a recipe from headers and settings alone; nothing is written.

    Raises:
        UpcycleError: the base cannot be expanded as asked.
        CheckpointError: the base is not there.
    """
    base = open_checkpoint(recipe.base, revision=recipe.base_revision)
    if recipe.baseline is not None:
        return _plan_baseline(recipe, recipe.baseline, base)
    experts = recipe.experts
    plan = plan_recipe(recipe, base)
    sizes = {job.name: prod(job.shape) for job in plan.jobs}
    trainable = count_trainable(sizes)
    total = sum(sizes.values())
    # Later groups are forecast to add what the first adds.
    added = trainable["post_pretrain"]
    stages = []
    for group in range(1, len(recipe.languages.expanded) + 1):
        so_far = total + (group - 1) * added
        name = stage_name("post_pretrain", group)
        trains_all = recipe.post_pretrain.trains == "everything"
        updated = so_far if trains_all else added
        stages.append(_stage(name, recipe.post_pretrain, base.config, so_far, updated))
        if recipe.review is not None:
            routers = group * trainable["review"]
            name = stage_name("review", group)
            stages.append(_stage(name, recipe.review, base.config, so_far, routers))
    if recipe.post_train is not None:
        updated = so_far if recipe.post_train.trains == "everything" else added
        stages.append(_stage(POST_TRAIN, recipe.post_train, base.config, so_far, updated))
    grafted = 0
    if recipe.graft is not None:
        grafted = 2 if recipe.graft.keep_ungrafted else 1
        if recipe.graft.is_before_review:
            stages.pop()
        if recipe.graft.is_reviewed and recipe.review is not None:
            stages.append(_stage(REVIEW_GRAFTED, recipe.review, base.config, so_far, routers))
    total += (len(recipe.languages.expanded) - 1) * added
    counts = list(plan.config["num_experts_per_layer"])
    return RunPlan(
        parameters_total=total,
        parameters_active=count_active(sizes, counts, experts.top_k),
        num_experts_per_layer=counts,
        checkpoint_bytes=plan.num_bytes,
        # Twice the largest training checkpoint: float32 weights and two moments of what is trained.
        disk_bytes=plan.num_bytes * (1 + len(stages) + grafted) + 2 * 12 * added,
        stages=tuple(stages),
        folders=tuple(_folders(recipe)),
    )


def _plan_baseline(recipe: Recipe, method: AnyBaseline, base: Checkpoint) -> RunPlan:
    """The forecast of a dense baseline: one training, of what post-pretraining and review read."""
    jobs, config = plan_start(method, base, recipe.seed)
    model = model_without_weights(method, base, config, recipe.seed)
    total = sum(prod(job.shape) for job in jobs)
    num_bytes = sum(job.num_bytes for job in jobs)
    # Adapters come on top; what shielding freezes is a buffer.
    held = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    training, review = recipe.post_pretrain, recipe.review
    if review is not None:
        tokens = None if review.tokens is None else training.tokens + review.tokens
        training = training.model_copy(update={"tokens": tokens})
    stages = [_stage(BASELINES[method.method][0], training, config, held, trained)]
    if recipe.post_train is not None:
        stages.append(_stage(POST_TRAIN, recipe.post_train, config, total, total))
    models = len(stages) + (recipe.graft is not None)
    models += adds_to_base(method)
    return RunPlan(
        parameters_total=total,
        parameters_active=total,
        num_experts_per_layer=[1] * int(config["num_hidden_layers"]),
        checkpoint_bytes=num_bytes,
        disk_bytes=num_bytes * models + 2 * 12 * trained,
        stages=tuple(stages),
        folders=tuple(_folders(recipe)),
    )


def measured_models(recipe: Recipe) -> tuple[str, ...]:
    """Every model that the run will measure, by its name in result and report, in order."""
    evaluations = (name for name in _folders(recipe) if name.startswith("evaluate-"))
    return tuple(name.removeprefix("evaluate-") for name in evaluations)


def _folders(recipe: Recipe) -> Iterator[str]:
    """The stages of a run, in the order in which it makes them."""
    if recipe.baseline is not None:
        method = recipe.baseline.method
        yield "evaluate-base"
        if method in START_STAGES:
            yield START_STAGES[method]
        yield from _trained_and_scored(BASELINES[method][0])
        yield from _last_folders(recipe)
        return
    measures = recipe.experts.similarity_tokens is not None
    yield from ["similarity"] * measures
    yield from ("upcycle", "evaluate-base")
    last = len(recipe.languages.expanded)
    for group in range(1, last + 1):
        if group > 1:
            yield from [f"similarity-g{group}"] * measures
            yield f"grow-g{group}"
        yield from _trained_and_scored(stage_name("post_pretrain", group))
        waits = group == last and recipe.graft is not None and recipe.graft.is_before_review
        if recipe.review is not None and not waits:
            yield from _trained_and_scored(stage_name("review", group))
    yield from _last_folders(recipe)
    if recipe.export is not None:
        yield "export"


def _last_folders(recipe: Recipe) -> Iterator[str]:
    """Those of post-training, or of a graft and its review."""
    if recipe.post_train is not None:
        yield from _trained_and_scored(POST_TRAIN)
    if recipe.graft is not None:
        for number in range(1, len(recipe.graft.post) + 1):
            yield f"evaluate-{sibling_name(number)}"
        yield from _trained_and_scored("graft")
        if recipe.graft.is_reviewed:
            yield from _trained_and_scored(REVIEW_GRAFTED)


def _trained_and_scored(name: str) -> tuple[str, str]:
    return name, f"evaluate-{name}"


def _stage(
    name: str, config: TrainConfig, dense: Mapping[str, Any], total: int, trainable: int
) -> StagePlan:
    tokens: int | None = getattr(config, "tokens", None)
    steps = (
        None if tokens is None else ceil(ceil(tokens / config.sequence_length) / config.batch_size)
    )
    batch_tokens = (config.micro_batch_size or config.batch_size) * config.sequence_length
    layers = 1 if config.gradient_checkpointing else int(dense["num_hidden_layers"])
    activations = 34 * int(dense["hidden_size"]) * layers + 2 * int(dense["vocab_size"])
    return StagePlan(
        stage=name,
        tokens=tokens,
        steps=steps,
        parameters_trainable=trainable,
        memory_bytes=4 * total + 12 * trainable + 4 * batch_tokens * activations,
    )


def probe_tokens_per_second(recipe: Recipe, work: Path) -> float:
    """Speed of the first training here, measured on ten steps of one micro-batch of random tokens.

    Args:
        recipe: whose base, experts or baseline, and micro-batch to take.
        work: a folder to be, for the model that training starts from; the caller removes it.
    """
    import torch

    from polycycle.stages.train import train_settings
    from polycycle.training import uses_bfloat16

    config = recipe.post_pretrain
    model = _model_to_probe(recipe, work)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    settings = train_settings(config, recipe.seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    shape = (settings.micro_batch_size or settings.batch_size, config.sequence_length)
    ids = torch.randint(model.config.vocab_size, shape, device=device)
    started = 0.0
    for step in range(_PROBE_STEPS + 2):
        if step == 2:  # the first steps allocate memory
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=uses_bfloat16(config.precision)):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    return _PROBE_STEPS * ids.numel() / (time.perf_counter() - started)


def _model_to_probe(recipe: Recipe, work: Path) -> Any:
    """The model that the first training starts from, as that freezes it."""
    from polycycle.stages.train import load_for_training
    from polycycle.surgery import execute_upcycle, freeze_for

    base, method = open_checkpoint(recipe.base, revision=recipe.base_revision), recipe.baseline
    if method is None:
        execute_upcycle(plan_recipe(recipe, base), work)
        model = load_for_training(work)
        freeze_for(model, "post_pretrain")
        return model
    source = base.folder
    if adds_to_base(method):
        source = work
        work.mkdir(parents=True)
        fill_start(method, base, recipe.seed, work)
    model = load_for_training(source)
    prepare_unscored(model, method, base, recipe.seed)
    return model
