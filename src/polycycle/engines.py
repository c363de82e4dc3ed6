"""The programs that serve models, and what to type for each."""

import shlex
from pathlib import Path
from typing import Literal, get_args

Engine = Literal["transformers", "vllm", "sglang", "llama.cpp"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


GGUF_FILE = "model.gguf"
"""What llama.cpp reads, in a folder that was exported for it."""


def serve_command(engine: Engine, model: str | Path, *, is_gguf: bool = False) -> str:
    """What to type to serve a stock checkpoint, OpenAI-compatible, with an engine.

    Args:
        engine: which.
        model: a folder or hub id.
        is_gguf: the folder holds a GGUF; else llama.cpp's converter, which lies in its sources,
            writes one beside the folder first.
    """
    place = shlex.quote(str(model))
    gguf = shlex.quote(str(Path(model) / GGUF_FILE) if is_gguf else f"{Path(model)}.gguf")
    convert = "" if is_gguf else f"python convert_hf_to_gguf.py {place} --outfile {gguf} && "
    return {
        "transformers": f"transformers serve {place}",
        "vllm": f"vllm serve {place}",
        "sglang": f"python -m sglang.launch_server --model-path {place}",
        "llama.cpp": f"{convert}llama-server --model {gguf}",
    }[engine]
