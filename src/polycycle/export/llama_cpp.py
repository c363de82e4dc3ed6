"""GGUF, the file that llama.cpp reads: as its `llama` with experts, or as its `qwen3moe`.

Letters: S slots of a layer, hd size of an attention head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, RopeScalingType, get_tensor_name_map
from torch import Tensor

from polycycle.checkpoint import TensorJob, bytes_of
from polycycle.errors import ExportError
from polycycle.export.gguf_tokenizer import GgufTokenizer, read_tokenizer
from polycycle.export.slots import SlotPlan, plan_slots
from polycycle.export.source import Source
from polycycle.export.target import (
    GGUF,
    PROJECTIONS,
    expert_job,
    head_job,
    interleaved,
    router_rows,
)

# Families whose attention is that of llama.cpp's `llama` (biases included), and of `qwen3moe`.
_ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.LLAMA,
    "qwen3": MODEL_ARCH.QWEN3MOE,
}
_NAMES = {MODEL_ARCH.LLAMA: "llama", MODEL_ARCH.QWEN3MOE: "qwen3moe"}
_TYPES = {
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
}
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufPlan:
    """What the file will hold.

    Attributes:
        source: the model.
        slots: which expert goes where.
        architecture: llama.cpp's name: `llama` or `qwen3moe`.
        tokenizer: as read.
        jobs: every tensor, in the order it is written, with llama.cpp's names.
    """

    source: Source
    slots: SlotPlan
    architecture: str
    tokenizer: GgufTokenizer
    jobs: tuple[TensorJob, ...]

    @property
    def target_name(self) -> str:
        """What the user calls the target."""
        return GGUF

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)


def plan_gguf(source: Source) -> GgufPlan:
    """The tensors of a GGUF file; of the weights only headers are read.

    Raises:
        ExportError: llama.cpp would not compute the same function, and why.
    """
    family = source.family.dense_model_type
    if family not in _ARCHITECTURES:
        raise ExportError(
            f"no GGUF of an upcycled {family}: llama.cpp has no mixture of experts with its "
            f"attention, norms and positions. There is one for {', '.join(_ARCHITECTURES)}"
        )
    _check(source)
    architecture = _ARCHITECTURES[family]
    # Every layer has experts there: dense ones are filled with copies.
    slots = plan_slots(source, selection_bias=False, keep_dense=False)
    config = source.config
    return GgufPlan(
        source=source,
        slots=slots,
        architecture=_NAMES[architecture],
        tokenizer=read_tokenizer(source.checkpoint.folder, config.vocab_size),
        jobs=tuple(_jobs(source, slots, architecture)),
    )


def _check(source: Source) -> None:
    if source.sliding_window:
        raise ExportError(f"llama.cpp has no sliding window here ({source.sliding_window})")
    if source.family.dense_model_type == "qwen3" and source.has_attention_bias:
        raise ExportError("llama.cpp's qwen3moe has no attention biases (attention_bias)")
    if not source.config.renormalize:
        raise ExportError(
            "llama.cpp always scales chosen weights to sum to one; the model has "
            "`renormalize: false`"
        )
    if source.config.hidden_act != "silu":
        raise ExportError(f"llama.cpp's experts know silu only, not {source.config.hidden_act}")
    if source.rope_type not in ("default", "linear", "yarn", "llama3"):
        raise ExportError(f"no converter to GGUF for rotary positions of type {source.rope_type}")
    other = {dtype for dtype in _dtypes(source) if dtype not in _TYPES}
    if other:
        raise ExportError(f"no GGUF type for weights in {', '.join(sorted(other))}")


def _dtypes(source: Source) -> set[str]:
    return {info.dtype for info in source.checkpoint.tensors.values()}


def write_gguf(
    plan: GgufPlan, path: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Write the file, one tensor at a time.

    Args:
        plan: from `plan_gguf`.
        path: the file.
        progress: called after each tensor.
    """
    writer = GGUFWriter(path, plan.architecture)
    _describe(writer, plan)
    for job in plan.jobs:
        shape, dtype = _stored(job)
        writer.add_tensor_info(job.name, shape, dtype, job.num_bytes, raw_dtype=_TYPES[job.dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for job in plan.jobs:
        writer.write_tensor_data(np.asarray(bytes_of(job.make())))
        if progress:
            progress(job)
    writer.close()


def _stored(job: TensorJob) -> tuple[tuple[int, ...], Any]:
    """Shape and numpy dtype in the writer's terms: bfloat16, unknown to numpy, as bytes."""
    if job.dtype == "BF16":
        return (*job.shape[:-1], job.shape[-1] * 2), np.dtype(np.uint8)
    return job.shape, np.dtype(np.float32 if job.dtype == "F32" else np.float16)


def _describe(writer: GGUFWriter, plan: GgufPlan) -> None:
    """Everything in the file that is no tensor."""
    source, config = plan.source, plan.source.config
    writer.add_name(Path(source.name).name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(source.head_dim)
    writer.add_value_length(source.head_dim)
    writer.add_rope_dimension_count(source.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(plan.slots.num_slots)
    writer.add_expert_used_count(source.top_k)
    writer.add_vocab_size(config.vocab_size)
    sizes = dict.fromkeys(_FILE_TYPES, 0)
    for job in plan.jobs:
        sizes[job.dtype] += job.num_bytes
    writer.add_file_type(_FILE_TYPES[max(sizes, key=lambda dtype: sizes[dtype])])
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if source.rope_type in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(source.rope_type))
        writer.add_rope_scaling_factor(rope["factor"])
    if source.rope_type == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    tokenizer = plan.tokenizer
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores is not None:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.adds_space_prefix)
    tokenizer.special.add_to_gguf(writer, quiet=True)


def _jobs(source: Source, slots: SlotPlan, architecture: MODEL_ARCH) -> Iterator[TensorJob]:
    """Embeddings, then layer by layer, then norm and head."""
    names = get_tensor_name_map(architecture, source.config.num_hidden_layers)
    shared = sorted(
        name
        for name in source.checkpoint.tensors
        if ".mlp." not in name and name != "lm_head.weight"
    )

    def job(name: str) -> TensorJob:
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ExportError(f"llama.cpp's {_NAMES[architecture]} has no tensor for {name}")
        return _shared_job(source, name, theirs, architecture)

    for name in shared:
        if ".layers." not in name:
            yield job(name)
    if source.rope_type == "llama3":
        size = source.head_dim // 2
        make = partial(llama3_factors, source.config.rope_parameters, source.head_dim)
        yield TensorJob(name="rope_freqs.weight", dtype="F32", shape=(size,), make=make)
    for index, filled in enumerate(slots.layers):
        for name in shared:
            if name.startswith(f"model.layers.{index}."):
                yield job(name)
        shape = (len(filled), source.config.hidden_size)
        rows = partial(router_rows, source, index, filled, shape, "F32")
        yield TensorJob(
            name=f"blk.{index}.ffn_gate_inp.weight", dtype="F32", shape=shape, make=rows
        )
        for part in PROJECTIONS:
            parts = [expert_job(source, index, slot.expert, part, "") for slot in filled]
            yield TensorJob(
                name=f"blk.{index}.ffn_{part.removesuffix('_proj')}_exps.weight",
                dtype=parts[0].dtype,
                shape=(len(parts), *parts[0].shape),
                make=partial(_stacked, parts),
            )
    head = head_job(source)
    yield TensorJob(name="output.weight", dtype=head.dtype, shape=head.shape, make=head.make)


def _stacked(parts: list[TensorJob]) -> Tensor:
    """[S, …] of the slots' tensors."""
    return torch.stack([part.make() for part in parts])


def _shared_job(source: Source, name: str, theirs: str, architecture: MODEL_ARCH) -> TensorJob:
    """A tensor outside the feed-forward blocks; vectors are float32 there."""
    info = source.checkpoint.info(name)
    dtype = "F32" if len(info.shape) == 1 else info.dtype
    heads = None
    if architecture == MODEL_ARCH.LLAMA and ".q_proj." in name:
        heads = source.config.num_attention_heads
    elif architecture == MODEL_ARCH.LLAMA and ".k_proj." in name:
        heads = source.config.num_key_value_heads
    make = partial(_converted, source, name, dtype, heads)
    return TensorJob(name=theirs, dtype=dtype, shape=info.shape, make=make)


def _converted(source: Source, name: str, dtype: str, heads: int | None) -> Tensor:
    tensor = source.checkpoint.read(name)
    if heads is not None:
        tensor = interleaved(tensor, heads)
    return tensor.float() if dtype == "F32" else tensor


def llama3_factors(rope: dict[str, Any], head_dim: int) -> Tensor:
    """What llama.cpp divides each rotary frequency by, for Llama 3.1's scaling: [hd/2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    wavelengths = 2 * torch.pi * rope["rope_theta"] ** exponents
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    smooth = ((context / wavelengths - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors.float()
