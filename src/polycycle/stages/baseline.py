"""Training a baseline on what post-pretraining and review would read."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor

from polycycle.baselines import column_scores, highest_columns, merged_tensors, shielded_tensors
from polycycle.checkpoint import open_checkpoint
from polycycle.config import (
    BASELINES,
    AnyBaseline,
    LlamaProConfig,
    LoraConfig,
    LoraMoeConfig,
    Recipe,
    ShieldedConfig,
    TrainConfig,
)
from polycycle.data import JoinedDataset, share_tokens
from polycycle.ranks import is_first_rank
from polycycle.stages.baseline_model import fill_start, prepare
from polycycle.stages.corpora import RunCorpora
from polycycle.stages.evaluate import load_model
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
from polycycle.training import TrainedStage, TrainSettings, train_stage

START_STAGES = {
    "llama_pro": "expand-blocks",
    "loramoe": "add-lora-experts",
    "shielded": "shield-columns",
}
"""By method, the stage that comes before its training, where there is one."""
_COLUMNS = "columns.safetensors"
_CALIBRATION_LENGTH = 2048


def train_baseline(run: Run) -> Path:
    """The model after the recipe's baseline; new blocks or LoRA experts are put in before."""
    config, review = run.recipe.baseline, run.recipe.review
    assert config is not None
    name, _ = BASELINES[config.method]
    read_in_review = {"replay_documents", "expanded_documents", "tokens"}
    start = _start(run, config)
    inputs = {
        "base": run.base_key,
        "method": config.model_dump(mode="json"),
        "review": review and review.model_dump(mode="json", include=read_in_review),
        "start": [run.keys[name] for name in START_STAGES.values() if name in run.keys],
    }
    make = partial(_train, run, name, start)
    return do_training(
        run, name, {**inputs, **training_inputs(run, run.recipe.post_pretrain)}, make
    )


def _start(run: Run, config: AnyBaseline) -> Path:
    """What training starts from: the base, or the base with new blocks or LoRA experts.

    Which columns are shielded is settled here, too: a training that goes on later, on another
    number of threads perhaps, must not choose others.
    """
    match config:
        case LlamaProConfig():
            stage = Stage(
                name=START_STAGES[config.method],
                result_version=1,
                inputs={"base": run.base_key, "every": config.every},
                make=partial(fill_start, config, run.base, run.recipe.seed),
            )
        case LoraMoeConfig():
            method = config.model_dump(mode="json", exclude={"balance_coef", "balance_delta"})
            stage = Stage(
                name=START_STAGES[config.method],
                result_version=1,
                inputs={"base": run.base_key, "method": method, "seed": run.recipe.seed},
                make=partial(fill_start, config, run.base, run.recipe.seed),
            )
        case ShieldedConfig():
            run.do(
                Stage(
                    name=START_STAGES[config.method],
                    result_version=2,
                    inputs={
                        "base": run.base_key,
                        "method": config.model_dump(mode="json"),
                        "data": run.data_inputs(),
                    },
                    make=partial(_fill_columns, config, run),
                )
            )
            return run.base.folder
        case _:
            return run.base.folder
    return run.do(stage)


def _fill_columns(config: ShieldedConfig, run: Run, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the columns to freeze, scored on what is replayed."""
    documents = list(replayed_documents(run, config.calibration_tokens))
    num_tokens = sum(map(len, documents))
    model = load_model(run.base)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring columns", total=num_tokens)
        scores = column_scores(
            model, documents, progress=lambda tokens: bar.update(task, advance=tokens)
        )
    save_file(highest_columns(scores, config.share), folder / _COLUMNS)
    return {"tokens": num_tokens, "documents": len(documents)}


def replayed_documents(run: Run, num_tokens: int) -> Iterator[NDArray[np.int32]]:
    """The first documents that are replayed of each original language, cut to the base's context.

    Args:
        run: of its texts.
        num_tokens: of all languages together, at most; each has the same share.
    """
    originals, corpora = run.recipe.languages.original, run.corpora.review
    if not set(originals) <= set(corpora):
        corpora = run.corpora.post_pretrain
    longest = run.base.longest_context(_CALIBRATION_LENGTH)
    shares = share_tokens(num_tokens, dict.fromkeys(originals, 1.0))
    for tag, left in shares.items():
        for index in range(len(corpora[tag])):
            document = corpora[tag].document(index)[: min(left, longest)]
            if not len(document):
                break
            left -= len(document)
            yield document


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
    active = sum(parameter.numel() for parameter in model.parameters())
    prepare(
        model,
        method,
        run.base,
        recipe.seed,
        columns=lambda: load_file(run.output / START_STAGES[method.method] / _COLUMNS),
    )
    # Adapters come on top of the base's; what shielding freezes is no parameter any more.
    active = max(active, sum(parameter.numel() for parameter in model.parameters()))
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
    start = open_checkpoint(source)
    trained = with_second_head(_dense_tensors(model, method, done), model, start)
    write_trained(start, trained, folder)
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
        # Passed over, as the recipe says of it: LoRAMoE's constraint reads labels.
        rightly = recipe.review.model_copy(update={"wrong_labels": 0.0})
        labelled = recipe.model_copy(update={"review": rightly})
        parts.append(training_data(labelled, "review", corpora, pad_token, sequence_length=length))
    return JoinedDataset(parts, recipe.seed)


def _settings(config: TrainConfig, method: AnyBaseline, seed: int) -> TrainSettings:
    settings = train_settings(config, seed)
    if not isinstance(method, LoraMoeConfig):
        return settings
    coef, delta = method.balance_coef, method.balance_delta
    return replace(settings, localized_coef=coef, localized_delta=delta)


def _dense_tensors(model: Any, method: AnyBaseline, done: TrainedStage) -> dict[str, Tensor]:
    """What was trained, by the names that the model's folder has for it."""
    match method:
        case LoraConfig():
            return merged_tensors(model)
        case ShieldedConfig():
            return shielded_tensors(model)
        case _:
            return done.trained
