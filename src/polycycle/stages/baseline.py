"""Training a baseline on what post-pretraining and review would read."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.baselines import (
    add_adapters,
    add_lora_experts,
    expand_blocks,
    merged_tensors,
    new_block_places,
    train_everything,
    train_half,
    train_lora_experts,
    train_new_blocks,
)
from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import (
    BASELINES,
    AnyBaseline,
    FullConfig,
    HalfConfig,
    LlamaProConfig,
    LoraConfig,
    LoraMoeConfig,
    Recipe,
    TrainConfig,
)
from polycycle.data import JoinedDataset
from polycycle.ranks import is_first_rank
from polycycle.stages.corpora import RunCorpora
from polycycle.stages.run import Run
from polycycle.stages.stage import Stage
from polycycle.stages.train import (
    load_for_training,
    train_settings,
    training_data,
    validation,
    with_second_head,
)
from polycycle.stages.training_record import write_record
from polycycle.stages.training_stage import do_training, training_inputs
from polycycle.surgery import write_trained
from polycycle.training import TrainSettings, train_stage


def train_baseline(run: Run) -> Path:
    """The model after the recipe's baseline; new blocks or LoRA experts are put in before."""
    config, review = run.recipe.baseline, run.recipe.review
    assert config is not None
    name, _ = BASELINES[config.method]
    read_in_review = {"replay_documents", "expanded_documents", "tokens"}
    inputs = {
        "base": run.base_key(),
        "method": config.model_dump(mode="json"),
        "review": review and review.model_dump(mode="json", include=read_in_review),
    }
    make = partial(_train, run, name, _start(run, config))
    return do_training(
        run, name, {**inputs, **training_inputs(run, run.recipe.post_pretrain)}, make
    )


def _start(run: Run, config: AnyBaseline) -> Path:
    """What training starts from: the base, or the base with new blocks or LoRA experts."""
    match config:
        case LlamaProConfig():
            stage = Stage(
                name="expand-blocks",
                result_version=1,
                inputs={"base": run.base_key(), "every": config.every},
                make=partial(_fill_expanded, config, run.base),
            )
        case LoraMoeConfig():
            method = config.model_dump(mode="json", exclude={"balance_coef", "balance_delta"})
            stage = Stage(
                name="add-lora-experts",
                result_version=1,
                inputs={"base": run.base_key(), "method": method, "seed": run.recipe.seed},
                make=partial(_fill_with_lora_experts, config, run.base, run.recipe.seed),
            )
        case _:
            return run.base.folder
    return run.do(stage)


def _fill_expanded(config: LlamaProConfig, base: Checkpoint, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the base and its new blocks, still without effect."""
    return {"new_blocks": list(expand_blocks(base, folder, every=config.every))}


def _fill_with_lora_experts(
    config: LoraMoeConfig, base: Checkpoint, seed: int, folder: Path
) -> dict[str, Any]:
    """Fill `folder` with the base and LoRA experts, still without effect."""
    add_lora_experts(
        base,
        folder,
        num_experts=config.num_experts,
        rank=config.rank,
        alpha=2.0 * config.rank if config.alpha is None else config.alpha,
        dropout=config.dropout,
        seed=seed,
    )
    return {}


def _train(run: Run, name: str, source: Path, work: Path, folder: Path) -> dict[str, Any]:
    """Train the recipe's baseline and fill `folder` with its model, plain and dense but LoRAMoE's.

    Every rank takes part; only the first writes. Checkpoints live in `work` until the stage is
    done; a killed run goes on from there.

    Returns:
        What it cost, for the manifest.
    """
    recipe, corpora = run.recipe, run.corpora
    config, method = recipe.post_pretrain, recipe.baseline
    assert method is not None
    model = load_for_training(source, fsdp=config.fsdp)
    _prepare(model, method, int(run.base.config["num_hidden_layers"]), recipe.seed)
    done = train_stage(
        model,
        baseline_data(recipe, corpora, run.pad_token),
        stage="baseline",
        groups=recipe.languages.groups(),
        output_dir=work,
        settings=_settings(config, method, recipe.seed),
        validate=validation(
            corpora.valid, config.validation_bytes, recipe.evaluation.context_length
        ),
        tell=run.tell,
    )
    if not is_first_rank():
        return {}
    active = sum(parameter.numel() for parameter in model.parameters())
    start = open_checkpoint(source)
    trained = merged_tensors(model) if isinstance(method, LoraConfig) else done.trained
    trained = with_second_head(trained, model, start)
    write_trained(start, trained, folder, trained)
    updated = done.parameters_trainable
    return write_record(name, done, folder, work, active=active, updated=updated)


def baseline_data(recipe: Recipe, corpora: RunCorpora, pad_token: int) -> JoinedDataset:
    """What post-pretraining reads, and review where there is one, shuffled together.

    So the baseline gets the mixture's texts and tokens, the replay of original languages among
    them, all in sequences of post-pretraining's length.

    Source: MoE-LPR, arXiv:2408.11396, §4.2: all baselines train with the replay data.
    """
    length = recipe.post_pretrain.sequence_length
    parts = [training_data(recipe, "post_pretrain", corpora, pad_token)]
    if recipe.review is not None:
        parts.append(training_data(recipe, "review", corpora, pad_token, sequence_length=length))
    return JoinedDataset(parts, recipe.seed)


def _settings(config: TrainConfig, method: AnyBaseline, seed: int) -> TrainSettings:
    settings = train_settings(config, seed)
    if not isinstance(method, LoraMoeConfig):
        return settings
    coef, delta = method.balance_coef, method.balance_delta
    return replace(settings, localized_coef=coef, localized_delta=delta)


def _prepare(model: Any, method: AnyBaseline, num_layers: int, seed: int) -> None:
    """Add what the method adds in memory, and freeze what it freezes."""
    match method:
        case FullConfig():
            train_everything(model)
        case LoraConfig():
            add_adapters(
                model,
                rank=method.rank,
                alpha=2.0 * method.rank if method.alpha is None else method.alpha,
                dropout=method.dropout,
                targets=method.targets,
                seed=seed,
            )
        case HalfConfig():
            train_half(model, seed)
        case LoraMoeConfig():
            train_lora_experts(model)
        case LlamaProConfig():
            train_new_blocks(model, new_block_places(num_layers, method.every))
