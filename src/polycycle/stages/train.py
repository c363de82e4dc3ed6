"""The training stages: load an upcycled folder, train it, write the next folder."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import PostPretrainConfig, Recipe, ReviewConfig, TrainConfig
from polycycle.data import PackedDataset, evaluation_windows
from polycycle.errors import TrainingError
from polycycle.evaluation import measure_text
from polycycle.ranks import is_first_rank, join_ranks, num_ranks
from polycycle.results import Unmasking
from polycycle.stages.corpora import Corpora, RunCorpora, stage_corpora
from polycycle.stages.run import Run
from polycycle.stages.training_record import active_parameters, write_record
from polycycle.stages.training_stage import do_training, training_inputs
from polycycle.surgery import TrainingStage, write_trained
from polycycle.training import AlarmSettings, TrainSettings, is_sharded, train_stage

REVIEW_GRAFTED = "review-grafted"
"""Name of a review after the graft."""
_VALIDATION_CONTEXT = 1024


def train(
    run: Run,
    stage: TrainingStage,
    source: Path,
    *,
    group: int = 1,
    finished: Path | None = None,
    name: str | None = None,
) -> Path:
    """The model after a training stage of a language group, from the model in `source`.

    Args:
        run: what to do, and on which texts.
        stage: `post_pretrain` or `review`.
        source: the upcycled model to start from.
        group: which group of languages is being added, 1 for G1.
        finished: the finished model of the groups before, whose languages alarms hold it to; None
            for the first group.
        name: of the stage; by default after what it does.
    """
    name = name or stage_name(stage, group)
    inputs = {
        "source": run.keys[source.name],
        **training_inputs(run, stage_config(run.recipe, stage, group), group),
    }
    make = partial(_train, run, stage, name=name, group=group, source=source, finished=finished)
    if stage == "post_pretrain":  # it reads no text of the review, so that several can follow it
        del inputs["data"]["review"]
    return do_training(run, name, inputs, make)


def _train(
    run: Run,
    stage: TrainingStage,
    work: Path,
    folder: Path,
    *,
    name: str,
    group: int,
    source: Path,
    finished: Path | None,
) -> dict[str, Any]:
    """Train one stage and fill `folder` with the model and what happened on the way.

    Every rank takes part; only the first writes. Checkpoints live in `work` until the stage is
    done; a killed run goes on from there.

    Returns:
        What it cost, for the manifest.
    """
    recipe, corpora = run.recipe, run.corpora
    config = stage_config(recipe, stage, group)
    dataset = training_data(recipe, stage, corpora, run.pad_token, group)
    classifier = recipe.experts.classifier
    validate = validation(
        {tag: corpora.valid[tag] for tag in run.known_languages(group)},
        config.validation_bytes,
        recipe.evaluation.context_length,
        is_padded=classifier is None or classifier.form != "sequence",
    )
    kept = None
    if finished is not None:
        kept = _validated(load_for_training(finished, fsdp=config.fsdp), validate)
    model = load_for_training(source, fsdp=config.fsdp)
    unmasking = None
    if kept is not None and open_checkpoint(source).config.get("masked_groups"):
        unmasking = Unmasking(before=dict(kept), after=dict(_validated(model, validate)))
    done = train_stage(
        model,
        dataset,
        stage=stage,
        groups=recipe.languages.groups().first(group),
        output_dir=work,
        settings=train_settings(config, recipe.seed),
        validate=validate,
        kept=kept,
        tell=run.tell,
    )
    if not is_first_rank():
        return {}
    start = open_checkpoint(source)
    trained = with_second_head(done.trained, model, start)
    write_trained(start, trained, folder)
    active = active_parameters(source)
    # A token passes through the trained parameters that are active; in review that is next to none.
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    updated = max(active - frozen, 0) if stage == "post_pretrain" else 0
    return write_record(
        name, done, folder, work, active=active, updated=updated, unmasking=unmasking
    )


def with_second_head(
    trained: Mapping[str, Tensor], model: Any, start: Checkpoint
) -> dict[str, Tensor]:
    """Trained tensors, and the head where it is tied but was saved beside the embeddings."""
    head, embeddings = "lm_head.weight", model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings().weight is embeddings
    if head in start.tensors and is_tied and "model.embed_tokens.weight" in trained:
        return {**trained, head: trained["model.embed_tokens.weight"]}
    return dict(trained)


def stage_name(stage: TrainingStage, group: int) -> str:
    """Name of the stage's folder: `post-pretrain`, and `post-pretrain-g2` for the second group."""
    return stage.replace("_", "-") + (f"-g{group}" if group > 1 else "")


def stage_config(
    recipe: Recipe, stage: TrainingStage, group: int
) -> PostPretrainConfig | ReviewConfig:
    """A stage's section of the recipe, as one language group is trained by it.

    Before a second group comes the group prior holds nobody but the originals, as the paper's does:
    it is called that, so that asking for it when a group is added changes nothing of the first.
    """
    if stage == "post_pretrain":
        return recipe.post_pretrain
    review = recipe.review
    assert review is not None
    if group == 1 and review.prior_form == "group":
        return review.model_copy(update={"prior_form": "paper"})
    return review


def training_data(
    recipe: Recipe,
    stage: TrainingStage,
    corpora: RunCorpora,
    pad_token: int,
    group: int = 1,
    *,
    sequence_length: int | None = None,
) -> PackedDataset:
    """The packed sequences of one stage of one language group; of its own length by default."""
    config = stage_config(recipe, stage, group)
    groups = recipe.languages.groups()
    texts, budgets = stage_corpora(recipe, stage, corpora, group)
    is_review = stage == "review"
    so_far = groups.first(group)
    ids = {
        kind: [groups.id_of(language) for language in languages]
        for kind, languages in (("original", so_far.original), ("expanded", so_far.all_expanded))
    }
    return PackedDataset(
        texts,
        budgets,
        {language: groups.id_of(language) for language in groups.all},
        sequence_length=sequence_length or config.sequence_length,
        seed=recipe.seed,
        pad_token=pad_token,
        packing=recipe.data.packing,
        repeat=recipe.data.repeat or (is_review and config.tokens is not None),
        wrong_labels=getattr(config, "wrong_labels", 0.0),
        wrong_ids={
            **dict.fromkeys(so_far.original, ids["expanded"]),
            **dict.fromkeys(so_far.all_expanded, ids["original"]),
        },
    )


def load_for_training(folder: Path, *, fsdp: bool = False) -> Any:
    """The model with float32 master weights; autocast decides what products are computed in.

    A group that growing masked takes part from here on.

    Args:
        folder: an upcycled model.
        fsdp: spread it over the ranks, if there are several (FSDP2, one unit per decoder layer).
    """
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    how: dict[str, Any] = {}
    if open_checkpoint(folder).config.get("masked_groups"):
        how["masked_groups"] = []
    if fsdp and num_ranks() > 1:
        join_ranks()
        how["distributed_config"] = DistributedConfig(fsdp_size=num_ranks())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how)
    model.config.use_cache = False
    if "distributed_config" in how and not is_sharded(model):
        raise TrainingError(
            "fsdp: transformers loaded the model whole on every process instead of sharding it; "
            "install transformers 5.19 or newer, or set fsdp: false"
        )
    return model


def train_settings(config: TrainConfig, seed: int) -> TrainSettings:
    """A recipe's section as the training room's flat settings."""
    shared = set(TrainSettings.__dataclass_fields__) & set(type(config).model_fields)
    shared -= {"alarms"}
    values = {name: getattr(config, name) for name in shared}
    return TrainSettings(
        **values,
        alarms=AlarmSettings(**config.alarms.model_dump()),
        seed=seed,
    )


def validation(
    valid: Corpora, max_bytes: int, context_length: int | None, *, is_padded: bool = True
) -> Callable[[Any], Mapping[str, float]]:
    """Bits per byte of every language on the first held-out documents.

    Args:
        valid: held-out text by language.
        max_bytes: UTF-8 bytes of each language.
        context_length: of a window.
        is_padded: windows of several lengths together; without it each is a batch of its own.
    """
    windows = {}
    for language, corpus in valid.items():
        totals = np.cumsum(corpus.text_bytes)
        count = min(int(np.searchsorted(totals, max_bytes)) + 1, len(corpus))
        batches = list(
            evaluation_windows(
                corpus,
                context_length=context_length or _VALIDATION_CONTEXT,
                num_documents=count,
                **({} if is_padded else {"batch_tokens": 1}),
            )
        )
        windows[language] = (batches, int(totals[count - 1]))

    def validate(model: Any) -> dict[str, float]:
        return {
            language: measure_text(model, batches, with_routing=False).bits_per_byte(num_bytes)
            for language, (batches, num_bytes) in windows.items()
        }

    return validate


def _validated(model: Any, validate: Callable[[Any], Mapping[str, float]]) -> Mapping[str, float]:
    """Bits per byte before training, as the coming stage will measure its own."""
    if torch.cuda.is_available() and not is_sharded(model):
        model.cuda()
    return validate(model)
