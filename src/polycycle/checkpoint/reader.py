"""A folder of safetensors, read one tensor at a time."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from polycycle.errors import CheckpointError, ConfigError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What of a hub repository is fetched: weights in safetensors, and text files. Never pickles, code.
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and what it is.

    Attributes:
        file: the safetensors file that holds it.
        dtype: safetensors' name of its dtype (`F32`, `BF16`, …).
        shape: its shape.
        num_bytes: its size.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder whose tensors are read lazily.

    Attributes:
        folder: where it lies.
        name: what the user called it: the folder, or the hub id.
        config: its config.json.
        tensors: every tensor by name.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU. Nothing of its file stays mapped when the tensor is gone."""
        info = self.info(name)
        with safe_open(info.file, framework="pt") as file:
            # clone: the tensor would otherwise keep the whole shard mapped into memory.
            tensor: Tensor = file.get_tensor(name)
            return tensor.clone()

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of one tensor, on the CPU, without reading the others."""
        with safe_open(self.info(name).file, framework="pt") as file:
            rows: Tensor = file.get_slice(name)[start:stop]
            return rows.clone()

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and size of one tensor, without reading it.

        Raises:
            CheckpointError: there is no such tensor.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.name}: no tensor {name!r} among its {len(self.tensors)}; "
                "is config.json the one that belongs to these weights?"
            )
        return self.tensors[name]

    def side_files(self) -> Iterator[Path]:
        """Tokenizer, chat template, generation config, licence: what travels with the weights."""
        for file in sorted(self.folder.iterdir()):
            is_weights = file.suffix == ".safetensors" or file.name == _INDEX
            if file.is_file() and not is_weights and _is_side_file(file):
                yield file

    def copy_side_files(self, folder: Path) -> None:
        """Put what travels with the weights into another folder."""
        for file in self.side_files():
            shutil.copyfile(file, folder / file.name)

    def longest_context(self, at_most: int) -> int:
        """Tokens that the model can see at once; `at_most` of them where it says more, or none."""
        return min(int(self.config.get("max_position_embeddings") or at_most), at_most)

    @property
    def revision(self) -> str | None:
        """The commit of a hub repository; None for a folder."""
        is_fetched = self.folder.parent.name == "snapshots"
        return self.folder.name if is_fetched and _COMMIT.fullmatch(self.folder.name) else None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the weights."""
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
        return any((self.folder / name).exists() for name in names)


def _is_side_file(file: Path) -> bool:
    stems = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "spiece")
    named = file.name in ("generation_config.json", "chat_template.jinja", "chat_template.json")
    return named or file.name.startswith((*stems, "LICENSE", "NOTICE"))


def open_checkpoint(path_or_id: str | Path, *, revision: str | None = None) -> Checkpoint:
    """A checkpoint in a local folder or on the Hugging Face hub (fetched once, then cached).

    Raises:
        CheckpointError: nothing is there, config.json is missing or broken, the weights are not
            safetensors, a shard is missing or truncated.
    """
    folder = _find_folder(path_or_id, revision)
    name = str(path_or_id)
    return Checkpoint(folder, name, _read_config(folder, name), _read_tensors(folder, name))


def refuse_own_folder(out: Path, *read: Checkpoint) -> None:
    """Refuse to write over a model that is being read.

    Raises:
        ConfigError: naming the folder.
    """
    if any(one.folder.resolve() == out.resolve() for one in read):
        raise ConfigError(f"{out} is one of the models read; write to another folder")


def _find_folder(path_or_id: str | Path, revision: str | None) -> Path:
    path = Path(path_or_id)
    if path.is_dir():
        return path
    name = str(path_or_id)
    # A hub id is `name` or `owner/name`; anything else that is not a folder is a wrong path.
    if isinstance(path_or_id, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(
            f"{name}: no such folder. Give a model folder (config.json and *.safetensors) "
            "or a hub id such as Qwen/Qwen2.5-1.5B"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS))
    except Exception as error:  # the hub raises many kinds; all mean: we do not have it
        raise CheckpointError(
            f"{name}: not a local folder, and could not be fetched from the hub "
            f"({type(error).__name__}: {error}). Check the spelling, `hf auth login` for gated "
            "models, or give the path of a folder"
        ) from error


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{name}: no config.json in {folder}; is this a model folder?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected an object of settings")
    return config


def _read_tensors(folder: Path, name: str) -> dict[str, TensorInfo]:
    index = folder / _INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        tensors = _headers(folder, name, sorted(set(weight_map.values())))
        missing = sorted(set(weight_map) - set(tensors))
        if missing:
            raise CheckpointError(
                f"{name}: {_INDEX} lists {missing[0]!r} in {weight_map[missing[0]]}, "
                f"which does not hold it ({len(missing)} such); fetch the folder again"
            )
        return tensors
    if (folder / _SINGLE).is_file():
        return _headers(folder, name, [_SINGLE])
    pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickles:
        raise CheckpointError(
            f"{name}: the weights are pickles ({pickles[0].name}), which can run code when read. "
            "Convert them once where you trust them: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise CheckpointError(f"{name}: no {_SINGLE} and no {_INDEX} in {folder}")


def _headers(folder: Path, name: str, files: list[str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        path = folder / file
        if not path.is_file():
            raise CheckpointError(f"{name}: shard {file} is missing; fetch the folder again")
        try:
            with safe_open(path, framework="pt"):  # checks that header and length agree
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{path}: truncated or not safetensors ({error})") from error
        for tensor, entry in _header(path).items():
            if tensor in tensors:
                raise CheckpointError(f"{name}: {tensor!r} is in {file} and another shard")
            start, end = entry["data_offsets"]
            tensors[tensor] = TensorInfo(path, entry["dtype"], tuple(entry["shape"]), end - start)
    return tensors


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of little-endian length, then the text."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header
