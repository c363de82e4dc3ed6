"""Post-training the finished model itself: the costly way that a graft saves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polycycle.baselines import train_everything
from polycycle.checkpoint import open_checkpoint
from polycycle.config import Recipe
from polycycle.data import PackedDataset
from polycycle.families import is_upcycled
from polycycle.ranks import is_first_rank
from polycycle.stages.corpora import Corpora, RunCorpora
from polycycle.stages.train import (
    active_parameters,
    load_for_training,
    train_settings,
    validation,
    with_second_head,
    write_record,
)
from polycycle.surgery import freeze_for, write_trained
from polycycle.training import train_stage

POST_TRAIN = "post-train"
"""Name of the stage and of its model."""


def post_train(
    recipe: Recipe,
    corpora: RunCorpora,
    texts: tuple[Corpora, Mapping[str, int]],
    *,
    source: Path,
    folder: Path,
    work: Path,
    pad_token: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Go on training a finished model, dense or upcycled, and fill `folder` with the result.

    The language-modelling loss alone, on all tokens of a text, as the microworld's siblings are
    post-trained. By default everything trains: a sibling's post-training moved attention and
    embeddings, too, and review sends original languages, in which instructions are, to the frozen
    expert. Every rank takes part; only the first writes.

    Args:
        recipe: what to do.
        corpora: the run's texts, for validations.
        texts: what to train on, and the tokens of each language.
        source: the finished model.
        folder: where the post-trained one goes.
        work: where checkpoints live until the stage is done; a killed run goes on from there.
        pad_token: fills the tail of the last sequence.
        tell: where alarms and notes go.

    Returns:
        What it cost, for the manifest.
    """
    config, groups = recipe.post_train, recipe.languages.groups()
    assert config is not None
    start = open_checkpoint(source)
    model = load_for_training(source, fsdp=config.fsdp)
    if is_upcycled(start.config):
        freeze_for(model, "post_pretrain", trains=config.trains)
    else:
        train_everything(model)
    of_language, budgets = texts
    done = train_stage(
        model,
        PackedDataset(
            of_language,
            budgets,
            {language: groups.id_of(language) for language in groups.all},
            sequence_length=config.sequence_length,
            seed=recipe.seed,
            pad_token=pad_token,
            packing=recipe.data.packing,
            repeat=True,
        ),
        stage="post_train",
        groups=groups,
        output_dir=work,
        settings=train_settings(config, recipe.seed),
        validate=validation(corpora, config.validation_bytes, recipe.evaluation.context_length),
        tell=tell,
    )
    if not is_first_rank():
        return {}
    trained = with_second_head(done.trained, model, start)
    write_trained(start, trained, folder, trained)
    active = active_parameters(source)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    updated = max(active - frozen, 0)
    return write_record(POST_TRAIN, done, folder, work, active=active, updated=updated)
