"""Post-training the finished model itself: the costly way that a graft saves."""

from functools import partial
from pathlib import Path
from typing import Any

from polycycle.baselines import train_everything
from polycycle.checkpoint import open_checkpoint
from polycycle.data import PackedDataset
from polycycle.families import is_upcycled
from polycycle.ranks import is_first_rank
from polycycle.stages.run import Run
from polycycle.stages.train import (
    load_for_training,
    train_settings,
    validation,
    with_second_head,
)
from polycycle.stages.training_record import active_parameters, write_record
from polycycle.stages.training_stage import do_training, training_inputs
from polycycle.surgery import freeze_for, write_trained
from polycycle.training import train_stage

POST_TRAIN = "post-train"
"""Name of the stage and of its model."""


def post_train(run: Run, source: Path) -> Path:
    """The finished model `source`, post-trained itself on the recipe's instructions."""
    config = run.recipe.post_train
    assert config is not None
    corpora, tokens = run.post_training
    inputs = {
        "source": run.keys[source.name],
        "texts": {tag: [corpus.folder.name, tokens[tag]] for tag, corpus in corpora.items()},
        **training_inputs(run, config),
    }
    return do_training(run, POST_TRAIN, inputs, partial(_post_train, run, source))


def _post_train(run: Run, source: Path, work: Path, folder: Path) -> dict[str, Any]:
    """Go on training a finished model, dense or upcycled, and fill `folder` with the result.

    The language-modelling loss alone, on all tokens of a text, as the microworld's siblings are
    post-trained. By default everything trains: a sibling's post-training moved attention and
    embeddings, too, and review sends original languages, in which instructions are, to the frozen
    expert. Every rank takes part; only the first writes. Checkpoints live in `work` until the stage
    is done; a killed run goes on from there.

    Returns:
        What it cost, for the manifest.
    """
    recipe = run.recipe
    config, groups = recipe.post_train, recipe.languages.groups()
    assert config is not None
    start = open_checkpoint(source)
    model = load_for_training(source, fsdp=config.fsdp)
    if is_upcycled(start.config):
        freeze_for(model, "post_pretrain", trains=config.trains)
    else:
        train_everything(model)
    of_language, budgets = run.post_training
    done = train_stage(
        model,
        PackedDataset(
            of_language,
            budgets,
            {language: groups.id_of(language) for language in groups.all},
            sequence_length=config.sequence_length,
            seed=recipe.seed,
            pad_token=run.pad_token,
            packing=recipe.data.packing,
            repeat=True,
        ),
        stage="post_train",
        groups=groups,
        output_dir=work,
        settings=train_settings(config, recipe.seed),
        validate=validation(
            run.corpora.valid, config.validation_bytes, recipe.evaluation.context_length
        ),
        tell=run.tell,
    )
    if not is_first_rank():
        return {}
    trained = with_second_head(done.trained, model, start)
    write_trained(start, trained, folder)
    active = active_parameters(source)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    updated = max(active - frozen, 0)
    return write_record(POST_TRAIN, done, folder, work, active=active, updated=updated)
