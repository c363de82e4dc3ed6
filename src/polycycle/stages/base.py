"""The small dense model that knows the microworld, which ships, and siblings of it or any base."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polycycle.checkpoint import content_hash, load_tokenizer, open_checkpoint
from polycycle.data import (
    PackedDataset,
    TextSource,
    TokenizedCorpus,
    collate,
    packed_model_inputs,
    pad_token,
    tokenize_corpus,
)
from polycycle.errors import ConfigError, did_you_mean
from polycycle.families import SUPPORTED
from polycycle.files import folder_when_whole, write_json
from polycycle.microworld import (
    FORMATS,
    GROUP_1,
    GROUP_2,
    ORIGINAL,
    SPARE,
    UNSEEN_ORIGINAL,
    World,
    post_training,
    train_tokenizer,
    write_microworld,
)
from polycycle.training import show_progress, use_one_gpu

TOKENS = 2_400_000
# What a base has seen of languages that it does not speak.
TRACE_TOKENS = 25_000
SIBLING_TOKENS = 60_000
SIBLING_RATE = 3e-4
SIBLING_RECORD = "sibling.json"
"""In a sibling's folder: what it was made of."""
HIDDEN_SIZE = 160
"""Of the shipped base."""
_HEAD_SIZE = 32
_SHAPE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
# Where a family's own default is not hidden size / attention heads.
_HEADS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": _HEAD_SIZE},
    "gemma2": {"head_dim": _HEAD_SIZE, "query_pre_attn_scalar": _HEAD_SIZE},
    "gemma3_text": {"head_dim": _HEAD_SIZE, "query_pre_attn_scalar": _HEAD_SIZE},
}


def build_base(
    folder: Path,
    *,
    seed: int = 0,
    tokens: int = TOKENS,
    family: str = "llama",
    hidden_size: int = HIDDEN_SIZE,
) -> None:
    """Train the microworld's dense base from nothing and write it to `folder` in bfloat16.

    It speaks en, zh, es, fr and pt, and has seen a trace of the other languages.

    Args:
        folder: appears only when complete.
        seed: of weights and data order.
        tokens: to train on.
        family: dense architecture, by `model_type`.
        hidden_size: a multiple of 32, the size of an attention head; other widths follow it.

    Raises:
        ConfigError: polycycle knows no such family, or the hidden size is not possible.
    """
    if family not in SUPPORTED:
        raise ConfigError(
            f"no family {family!r}.{did_you_mean(family, SUPPORTED)} There are "
            f"{', '.join(SUPPORTED)}"
        )
    shape = _shape(family, hidden_size)
    with folder_when_whole(folder) as partial, tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        train_tokenizer(partial)
        model = _train(partial, work, seed=seed, tokens=tokens, family=family, shape=shape)
        model.config.use_cache = True
        model.to(torch.bfloat16).save_pretrained(partial)


def build_sibling(
    folder: Path,
    base: str | Path,
    *,
    form: str,
    seed: int = 0,
    tokens: int = SIBLING_TOKENS,
    learning_rate: float = SIBLING_RATE,
) -> None:
    """Post-train a base on an instruction format and write the sibling to `folder`.

    It is asked in the replayed original languages only, about three people in four; a little plain
    text keeps it from forgetting how to go on without instructions. All of it is the microworld's:
    a base that `build_base` made knows the answers, another one only where the prompt says them.

    Args:
        folder: appears only when complete; `sibling.json` in it says what it was made of.
        base: any dense model, a folder or hub id.
        form: key of `microworld.FORMATS`.
        seed: of data order.
        tokens: to train on.
        learning_rate: its peak.

    Raises:
        ConfigError: there is no such format.
        CheckpointError: there is no such base, or no tokenizer beside it.
    """
    from transformers import AutoModelForCausalLM

    if form not in FORMATS:
        raise ConfigError(
            f"no instruction format {form!r}.{did_you_mean(form, FORMATS)} There are "
            f"{', '.join(FORMATS)}"
        )
    with folder_when_whole(folder) as partial, tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = open_checkpoint(base)
        tokenizer = load_tokenizer(source.folder, source.name)
        model = AutoModelForCausalLM.from_pretrained(source.folder, dtype="auto")
        dtype = model.dtype
        dataset = _instruction_dataset(tokenizer, work, form=form, seed=seed, tokens=tokens)
        model = _fit(
            model.float(), dataset, work, "sibling", seed=seed, learning_rate=learning_rate
        )
        model.to(dtype).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        record = {"form": form, "seed": seed, "tokens": tokens, "learning_rate": learning_rate}
        write_json(partial / SIBLING_RECORD, {"base_hash": content_hash(source), **record})


def _shape(family: str, hidden_size: int) -> dict[str, Any]:
    return {**_SHAPE, **_widths(hidden_size), **_HEADS.get(family, {})}


def _widths(hidden_size: int) -> dict[str, int]:
    """What grows with the hidden size: heads, and the feed-forward blocks, 2.8 times as wide."""
    if hidden_size < _HEAD_SIZE or hidden_size % _HEAD_SIZE:
        raise ConfigError(
            f"--hidden-size {hidden_size}: attention heads have {_HEAD_SIZE}, so give a multiple "
            f"of that, such as {HIDDEN_SIZE}"
        )
    heads = hidden_size // _HEAD_SIZE
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 16 * round(2.8 * hidden_size / 16),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


def _train(
    tokenizer_folder: Path,
    work: Path,
    *,
    seed: int,
    tokens: int,
    family: str,
    shape: Mapping[str, Any],
) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    dataset = _dataset(tokenizer, work, seed=seed, tokens=tokens)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return _fit(model, dataset, work, "base", seed=seed, learning_rate=3e-3)


def _fit(
    model: Any,
    dataset: PackedDataset,
    work: Path,
    label: str,
    *,
    seed: int,
    learning_rate: float,
) -> Any:
    """The model after one pass over the dataset, everything trained."""
    from transformers import Trainer, TrainingArguments

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=str(work / "trainer"),
            per_device_train_batch_size=32,
            num_train_epochs=1,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.04,
            adam_beta2=0.95,
            weight_decay=0.01,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=5,
            disable_tqdm=True,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            seed=seed,
        )
    use_one_gpu(arguments)
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=_collate)
    show_progress(trainer, label)
    trainer.train()
    return model


def _collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    batch = collate(items)
    return {**packed_model_inputs(batch), "labels": batch["labels"]}


def _dataset(tokenizer: Any, work: Path, *, seed: int, tokens: int) -> PackedDataset:
    known = (*ORIGINAL, *UNSEEN_ORIGINAL)
    others = (*GROUP_1, *GROUP_2, *SPARE)
    languages = (*known, *others)
    budgets = dict.fromkeys(others, TRACE_TOKENS)
    budgets |= dict.fromkeys(known, (tokens - TRACE_TOKENS * len(others)) // len(known))
    write_microworld(
        work / "world",
        seed=seed,
        languages=languages,
        num_documents={tag: budgets[tag] // (12 if tag in known else 40) for tag in languages},
    )
    corpora = {
        tag: tokenize_corpus(
            TextSource(path=f"train/{tag}.jsonl"),
            tag,
            tokenizer,
            work / "cache",
            root=work / "world",
        )
        for tag in languages
    }
    return _packed(corpora, budgets, tokenizer, seed=seed)


def _instruction_dataset(
    tokenizer: Any, work: Path, *, form: str, seed: int, tokens: int
) -> PackedDataset:
    """Instructions in every replayed original language, and a little of its plain text."""
    world = World.from_seed()
    corpora, budgets = {}, {}
    for language in ORIGINAL:
        texts = post_training(world, language, form=form, seed=seed)
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (work / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
        corpora[language] = tokenize_corpus(
            TextSource(path=f"{language}.jsonl"), language, tokenizer, work / "cache", root=work
        )
        budgets[language] = tokens // len(ORIGINAL)
    return _packed(corpora, budgets, tokenizer, seed=seed)


def _packed(
    corpora: Mapping[str, TokenizedCorpus], budgets: dict[str, int], tokenizer: Any, *, seed: int
) -> PackedDataset:
    return PackedDataset(
        corpora,
        budgets,
        {language: number for number, language in enumerate(corpora)},
        sequence_length=128,
        seed=seed,
        pad_token=pad_token(tokenizer),
        repeat=True,
    )


def shipped_base() -> Path | None:
    """The base that ships in the package, or None where it was left out."""
    from importlib.resources import files

    folder = Path(str(files("polycycle.microworld"))) / "base"
    return folder if (folder / "model.safetensors").is_file() else None


def copy_base(folder: Path) -> None:
    """Put the shipped base into `folder`, or train one there where none ships."""
    shipped = shipped_base()
    if shipped is None:
        build_base(folder)
        return
    with folder_when_whole(folder) as partial:
        shutil.copytree(shipped, partial, dirs_exist_ok=True)
