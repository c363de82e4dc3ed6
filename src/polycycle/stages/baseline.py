"""Training a dense baseline on what post-pretraining and review would read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from polycycle.baselines import (
    add_adapters,
    expand_blocks,
    merged_tensors,
    new_block_places,
    train_everything,
    train_new_blocks,
)
from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import AnyBaseline, FullConfig, LlamaProConfig, LoraConfig, Recipe
from polycycle.data import JoinedDataset
from polycycle.ranks import is_first_rank
from polycycle.stages.corpora import RunCorpora
from polycycle.stages.train import (
    load_for_training,
    train_settings,
    training_data,
    validation,
    write_record,
)
from polycycle.surgery import write_trained
from polycycle.training import train_stage


def fill_expanded(config: LlamaProConfig, base: Checkpoint, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the base and its new blocks, still without effect."""
    return {"new_blocks": list(expand_blocks(base, folder, every=config.every))}


def train_baseline(
    recipe: Recipe,
    corpora: RunCorpora,
    *,
    name: str,
    base: Checkpoint,
    source: Path,
    folder: Path,
    work: Path,
    pad_token: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Train the recipe's baseline and fill `folder` with a plain dense model.

    Every rank takes part; only the first writes.

    Args:
        recipe: what to do.
        corpora: the run's texts.
        name: of the stage.
        base: the dense model.
        source: what training starts from: the base, or for LLaMA-Pro the base with new blocks.
        folder: where the model goes.
        work: where checkpoints live until the stage is done; a killed run goes on from there.
        pad_token: fills the tail of the last sequence.
        tell: where alarms and notes go.

    Returns:
        What it cost, for the manifest.
    """
    config, method = recipe.post_pretrain, recipe.baseline
    assert method is not None
    model = load_for_training(source, fsdp=config.fsdp)
    _prepare(model, method, int(base.config["num_hidden_layers"]), recipe.seed)
    done = train_stage(
        model,
        baseline_data(recipe, corpora, pad_token),
        stage="baseline",
        groups=recipe.languages.groups(),
        output_dir=work,
        settings=train_settings(config, recipe.seed),
        validate=validation(corpora, config.validation_bytes, recipe.evaluation.context_length),
        tell=tell,
    )
    if not is_first_rank():
        return {}
    active = sum(parameter.numel() for parameter in model.parameters())
    start = open_checkpoint(source)
    trained = merged_tensors(model) if isinstance(method, LoraConfig) else done.trained
    head, embeddings = "lm_head.weight", model.get_input_embeddings().weight
    if head in start.tensors and model.get_output_embeddings().weight is embeddings:
        # Tied, but saved twice: the second copy would be what it was.
        trained = {**trained, head: embeddings.detach().cpu()}
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
        case LlamaProConfig():
            train_new_blocks(model, new_block_places(num_layers, method.every))
