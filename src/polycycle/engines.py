"""The programs that serve models, and what to type for each."""

import shlex
from pathlib import Path
from typing import Literal, get_args

Engine = Literal["transformers", "vllm", "sglang", "llama.cpp"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def serve_command(engine: Engine, model: str | Path) -> str:
    """What to type to serve a stock checkpoint, OpenAI-compatible, with an engine."""
    place = shlex.quote(str(model))
    return {
        "transformers": f"transformers serve --force-model {place}",
        "vllm": f"vllm serve {place}",
        "sglang": f"python -m sglang.launch_server --model-path {place}",
        "llama.cpp": f"llama-server --model {place}",
    }[engine]
