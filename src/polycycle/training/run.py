"""Training one stage: from a loaded model and a dataset to a trained model in memory."""

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from polycycle.errors import TrainingError, TrainingInterrupted
from polycycle.experts import reachable_experts
from polycycle.languages import LanguageGroups
from polycycle.modeling import frozen_expert_only, why_no_dense_reference
from polycycle.ranks import any_rank, join_ranks, num_ranks
from polycycle.surgery import TrainingStage, freeze_for
from polycycle.training.alarms import Alarms, RaisedAlarm
from polycycle.training.checkpoints import cut_metrics, latest_checkpoint, read_metrics, step_of
from polycycle.training.monitor import Monitor
from polycycle.training.objective import Objective
from polycycle.training.progress import show_progress
from polycycle.training.settings import TrainSettings, uses_bfloat16
from polycycle.training.sharding import is_sharded
from polycycle.training.trainer import RoutedTrainer, Validate

logger = logging.getLogger(__name__)
StageKind = TrainingStage | Literal["baseline", "post_train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedStage:
    """What a stage's training came to.

    Attributes:
        trained: the trained tensors by name, in training precision, on the CPU.
        steps: optimizer steps.
        tokens: tokens seen, padding not counted.
        seconds: time spent, pauses between resumes left out.
        parameters_trainable: how many parameters had gradients.
        was_resumed: whether it went on from a checkpoint.
        metrics: the lines of metrics.jsonl.
        alarms: what was raised.
    """

    trained: dict[str, Tensor]
    steps: int
    tokens: int
    seconds: float
    parameters_trainable: int
    was_resumed: bool
    metrics: list[dict[str, Any]]
    alarms: list[RaisedAlarm]


def train_stage(
    model: Any,
    dataset: Any,
    *,
    stage: StageKind,
    groups: LanguageGroups,
    output_dir: Path,
    settings: TrainSettings,
    validate: Validate | None = None,
    kept: Mapping[str, float] | None = None,
    tell: Callable[[str], None] = logger.warning,
) -> TrainedStage:
    """Train what the stage trains; the model is left trained in memory.

    `output_dir` gets `metrics.jsonl` and `checkpoint-N` folders. If it holds a whole checkpoint,
    training goes on from there and ends, on the CPU, with the bits it would have had without the
    interruption.

    Args:
        model: an upcycled model in training precision (float32 master weights); for a baseline a
            dense one, frozen as its method wants it; for post-training either, frozen as wanted.
        dataset: map-style with `num_tokens`; see `data.PackedDataset`.
        stage: `post_pretrain` or `review` decide what is frozen; the others leave it as it is.
        groups: language ids and groups.
        output_dir: the stage's working folder.
        settings: everything else.
        validate: bits per byte by language; called before the first step on the dense base, then
            regularly.
        kept: what `validate` found for the languages of earlier groups before this group came; the
            forgetting alarm holds them to it.
        tell: where alarms and notes go.

    Raises:
        TrainingInterrupted: stopped by Ctrl-C or SIGTERM, after saving.
        TrainingError: the loss is not finite, or a checkpoint does not fit.
    """
    join_ranks()
    output_dir.mkdir(parents=True, exist_ok=True)
    if stage == "baseline" or stage == "post_train":
        names = _trained_names(model)
    else:
        names = freeze_for(model, stage, trains=settings.trains)
    checkpoint = latest_checkpoint(output_dir)
    cut_metrics(output_dir, -1 if checkpoint is None else step_of(checkpoint))
    trainer = _build(model, dataset, groups, output_dir, settings, validate, kept, tell, stage)
    if checkpoint is not None:
        tell(f"{stage}: going on from step {step_of(checkpoint)}")
        trainer.load_own_state(checkpoint)
    with _stopping_gently(tell) as stop:
        trainer.add_callback(_StopWhenAsked(stop))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.is_set():
        raise TrainingInterrupted(
            f"{stage} stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "everything is saved, the same command goes on from here"
        )
    return TrainedStage(
        trained=trainer.trained_tensors(),
        steps=trainer.state.global_step,
        tokens=trainer.monitor.tokens * trainer.args.world_size,
        seconds=trainer.seconds_so_far(),
        parameters_trainable=sum(
            p.numel() for name, p in model.named_parameters() if name in set(names)
        ),
        was_resumed=checkpoint is not None,
        metrics=read_metrics(output_dir),
        alarms=trainer.alarms.raised,
    )


def _build(
    model: Any,
    dataset: Any,
    groups: LanguageGroups,
    output_dir: Path,
    settings: TrainSettings,
    validate: Validate | None,
    kept: Mapping[str, float] | None,
    tell: Callable[[str], None],
    stage: StageKind,
) -> RoutedTrainer:
    args = _arguments(output_dir, settings, len(dataset), is_sharded=is_sharded(model))
    total_steps = -(-len(dataset) // settings.batch_size)
    to_keep = dict(kept or {})
    if validate is not None:
        if not is_sharded(model):
            model.to(args.device)  # the Trainer would do it only later
        # A baseline starts as its base. What has none any more is held to what it starts as.
        has_base = why_no_dense_reference(model.config.to_dict()) is None
        with frozen_expert_only() if has_base else nullcontext():
            base = validate(model)
        to_keep |= {tag: base[tag] for tag in groups.all_original if tag in base}
    reachable = _reachable(model.config, groups)
    trainer = RoutedTrainer(
        model,
        args,
        dataset,
        objective=Objective(
            group_ids=tuple(groups.group_of(language) for language in groups.all),
            owned_experts=_owned_experts(model.config),
            balance_coef=settings.balance_coef,
            balance_scope=settings.balance_scope,
            prior_coef=settings.prior_coef,
            prior_form=settings.prior_form,
            router_z_coef=settings.router_z_coef,
            classifier_coef=settings.classifier_coef,
            localized_coef=settings.localized_coef,
            localized_delta=settings.localized_delta,
            assignment_coef=settings.assignment_coef,
            reachable=reachable,
        ),
        hard_steps=settings.assignment_hard_steps,
        monitor=Monitor(groups, reachable),
        alarms=Alarms(settings.alarms, groups, to_keep, total_steps),
        validate=validate,
        validate_every=settings.validate_every_steps or max(total_steps // 5, 1),
        tell=lambda alarm: tell(
            f"{stage}: {alarm.kind} alarm at step {alarm.step}: {alarm.message}"
        ),
    )
    show_progress(trainer, stage.replace("_", "-"))
    return trainer


def _trained_names(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _owned_experts(config: Any) -> tuple[tuple[int, ...], ...]:
    """Per MoE layer, how many experts it had at first, and after each group."""
    return tuple(
        tuple(accumulate([1, *(group[layer] for group in config.new_experts_by_group)]))
        for layer, count in enumerate(getattr(config, "num_experts_per_layer", ()))
        if count > 1
    )


def _reachable(config: Any, groups: LanguageGroups) -> dict[int, tuple[tuple[bool, ...], ...]]:
    """By layer in which languages have experts of their own: which experts each one reaches."""
    assigned = getattr(config, "expert_languages", None) or ()
    return {
        layer: reachable_experts(experts, groups.all)
        for layer, experts in enumerate(assigned)
        if any(experts)
    }


def _arguments(
    output_dir: Path, settings: TrainSettings, num_sequences: int, *, is_sharded: bool
) -> TrainingArguments:
    ranks = num_ranks()
    if settings.batch_size % ranks:
        raise TrainingError(
            f"batch_size={settings.batch_size} is not a multiple of the {ranks} processes; choose "
            f"one that is, such as {ranks * max(1, settings.batch_size // ranks)}"
        )
    share = settings.batch_size // ranks
    micro = settings.micro_batch_size or share
    if share % micro:
        raise TrainingError(
            f"batch_size={settings.batch_size} is not a multiple of micro_batch_size={micro} × "
            f"{ranks} processes; choose a micro_batch_size that divides {share}"
        )
    total_steps = -(-num_sequences // settings.batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = TrainingArguments(
            output_dir=str(output_dir),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=share // micro,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=round(settings.warmup_ratio * total_steps),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            adam_beta2=settings.adam_beta2,
            bf16=uses_bfloat16(settings.precision),
            use_cpu=not torch.cuda.is_available(),
            ddp_backend=None if torch.cuda.is_available() or ranks == 1 else "gloo",
            gradient_checkpointing=settings.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            torch_compile=settings.torch_compile,
            logging_steps=settings.log_every_steps,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=settings.save_every_steps or _tenth(total_steps, settings.log_every_steps),
            save_only_model=is_sharded,  # the Trainer cannot save the rest; RoutedTrainer does
            report_to=list(settings.report_to),
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=settings.seed,
            data_seed=settings.seed,
            optim="adamw_torch",
            log_level="error",
        )
    use_one_gpu(args)
    return args


def use_one_gpu(args: TrainingArguments) -> None:
    """One process, one GPU, however many it sees.

    The Trainer would spread each batch over threads (nn.DataParallel), in which no routing is
    recorded, and multiply the batch size.
    """
    _ = args.device  # finds out how many there are
    args._n_gpu = min(args.n_gpu, 1)


def _tenth(total_steps: int, log_every_steps: int) -> int:
    """A tenth of the steps; a whole number of log lines, since a checkpoint ends a line early."""
    tenth = max(total_steps // 10, 1)
    return tenth if tenth < log_every_steps else -(-tenth // log_every_steps) * log_every_steps


class _StopWhenAsked(TrainerCallback):
    """Ends training after the running step, with a checkpoint."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the Trainer to save and stop; all ranks stop after the same step."""
        if any_rank(flag=self.stop.is_set()):
            self.stop.set()
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def _stopping_gently(tell: Callable[[str], None]) -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set an event; a second one acts as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for signum, handler in before.items():
            signal.signal(signum, handler)
        tell("stopping after this step, to save it; once more stops at once, without saving")

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
