"""What a training stage is told, as flat settings; `config.TrainConfig` explains each one."""

from dataclasses import dataclass
from typing import Literal

import torch

from polycycle.losses import PriorForm
from polycycle.surgery import Trains

BalanceScope = Literal["global", "micro_batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmSettings:
    """When to warn; None turns an alarm off. See `config.AlarmsConfig`."""

    forgetting_ratio: float | None = 1.02
    plateau_ratio: float | None = 0.005
    collapse_share: float | None = 0.9
    dead_share: float | None = 0.001
    usage_entropy: float | None = 0.3
    patience_steps: int = 50
    stop: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """One stage's settings; every coefficient multiplies an unweighted loss."""

    batch_size: int
    micro_batch_size: int | None = None
    learning_rate: float = 5e-5
    scheduler: str = "cosine"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.95
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    balance_coef: float = 0.0
    balance_scope: BalanceScope = "global"
    prior_coef: float = 0.0
    prior_form: PriorForm = "group"
    router_z_coef: float = 0.0
    classifier_coef: float = 0.0
    assignment_coef: float = 0.0
    assignment_hard_steps: int = 0
    trains: Trains = "new_experts"
    localized_coef: float = 0.0
    localized_delta: float = 0.0
    log_every_steps: int = 10
    validate_every_steps: int | None = None
    save_every_steps: int | None = None
    report_to: tuple[str, ...] = ()
    seed: int = 0
    alarms: AlarmSettings = AlarmSettings()


def fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this machine.

    True on CUDA devices that have it, and on processors with AMX or AVX-512 BF16. Elsewhere
    bfloat16 is emulated: 35 times slower than float32 on an AVX2 machine we measured.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def uses_bfloat16(precision: Literal["auto", "float32", "bfloat16"]) -> bool:
    """Whether a run of this precision trains under bfloat16 autocast here."""
    return precision == "bfloat16" or (precision == "auto" and fast_bfloat16())
