"""Serving a finished model: what to type for each engine, and transformers' own server."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polycycle.checkpoint import Checkpoint, load_tokenizer
from polycycle.engines import ENGINES, serve_command
from polycycle.errors import ConfigError, ExportError
from polycycle.export import EXPORT_FILE, read_proof, read_record
from polycycle.families import has_lora_experts, is_upcycled
from polycycle.inference.loading import choose_device_and_dtype, is_gguf, open_model


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve a model.

    Attributes:
        engine: the program.
        command: what to type.
        known: how it is known that it computes the model right.
    """

    engine: str
    command: str
    known: str


def ways_to_serve(
    model: str | Path,
    *,
    revision: str | None = None,
    host: str | None = None,
    port: int | None = None,
) -> list[Way]:
    """Every engine that is known to compute a model right, and what to type for it.

    Args:
        model: ours, an export, or a dense model; a folder or a hub id.
        revision: of a hub id.
        host: put into the commands where given.
        port: likewise.

    Raises:
        ExportError: it is an export whose proof failed.
    """
    record, proof, checkpoint = _what_is_known(model, revision)
    flags = "".join(
        f" {name} {shlex.quote(str(value))}"
        for name, value in (("--host", host), ("--port", port))
        if value is not None
    )
    if checkpoint is not None and _is_ours(checkpoint.config):
        command = f"polycycle serve {shlex.quote(str(model))} --run{flags}"
        known = "with polycycle: the model is in its own format"
        if is_upcycled(checkpoint.config):
            known += f"; for other engines: polycycle export {model} OUT --engine vllm"
        return [Way("transformers", command, known)]
    if record is None:
        known = "a dense model; other engines that know its architecture serve it, too"
        return [Way("transformers", serve_command("transformers", model) + flags, known)]
    if proof is not None and not proof["passed"]:
        raise ExportError(
            f"{model} does not compute what {record['exported_from']} computes, so it is not to be "
            "served:\n  " + "\n  ".join(proof["failures"])
        )
    doubt = "" if proof is not None else f"; NOT PROVED yet: polycycle verify {model}"
    right: dict[str, str] = record["right_for"]
    return [
        Way(
            engine,
            serve_command(engine, model, is_gguf=is_gguf(model)) + flags,
            right[engine] + doubt,
        )
        for engine in ENGINES
        if engine in right
    ]


def _what_is_known(
    model: str | Path, revision: str | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, Checkpoint | None]:
    """Record and proof of an export, and the checkpoint, which a GGUF has none of."""
    checkpoint = None if is_gguf(model) else open_model(model, revision=revision)
    folder = Path(model) if checkpoint is None else checkpoint.folder
    record, proof = read_record(folder), read_proof(folder)
    if checkpoint is None and record is None:
        raise ExportError(f"{model}: there is no {EXPORT_FILE} beside the GGUF")
    return record, proof, checkpoint


def run_server(
    checkpoint: Checkpoint,
    *,
    host: str = "localhost",
    port: int = 8000,
    dtype: str = "auto",
    device: str = "auto",
) -> None:
    """Serve a model with transformers' OpenAI-compatible server until somebody interrupts it.

    Args:
        checkpoint: from `open_model`. Requests name the model as it was opened.
        host: address to listen on.
        port: likewise.
        dtype: see `choose_device_and_dtype`.
        device: see there.

    Raises:
        ConfigError: packages of the server are missing, or no such dtype or device.
    """
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ConfigError(
            "transformers' server needs fastapi, uvicorn and openai, which are not all here: "
            "pip install 'polycycle[serve]'"
        )
    from transformers.cli.serve import Serve
    from transformers.cli.serving import model_manager

    device, dtype = choose_device_and_dtype(device, dtype)
    usual = model_manager.ModelManager
    # The server makes its own manager, which looks classes up by name in transformers' namespace:
    # there is none of that name, or, for Qwen2MoeForCausalLM, another.
    model_manager.ModelManager = _manager_for(checkpoint, usual)
    try:
        Serve(force_model=checkpoint.name, host=host, port=port, device=device, dtype=dtype)
    finally:
        model_manager.ModelManager = usual


def _manager_for(checkpoint: Checkpoint, usual: type[Any]) -> type[Any]:
    """transformers' manager of served models, which gets this one from its folder."""

    class OneModelManager(usual):
        def _load_processor(self, *args: Any, **kwargs: Any) -> Any:
            return load_tokenizer(checkpoint.folder, checkpoint.name)

        def _load_model(self, *args: Any, **kwargs: Any) -> Any:
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, dtype=self.dtype, device_map=self.device
            )
            if getattr(model.config, "classifier_form", "token") == "sequence":
                model.generation_config.use_cache = False
            return model

        def get_model_modality(self, *args: Any, **kwargs: Any) -> Any:
            from transformers.cli.serving.utils import Modality

            return Modality.LLM

    return OneModelManager


def _is_ours(config: Any) -> bool:
    return is_upcycled(config) or has_lora_experts(config)
