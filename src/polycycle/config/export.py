"""Section `export`: the finished model as others can load it."""

from polycycle.config.section import Section
from polycycle.engines import Engine


class ExportConfig(Section):
    """A stock checkpoint of the finished model, proved to compute the same (`polycycle export`)."""

    target: str = "auto"
    """`auto`, or a stock architecture: mixtral, qwen2_moe, qwen3_moe, flex_olmo, ernie4_5_moe,
    or `gguf`, the file of llama.cpp."""
    engine: Engine = "transformers"
    """What will serve it; a target that this engine computes otherwise is refused."""
    without_exact_retention: bool = False
    """Leave a retention gate out, which no stock architecture has; classifiers stay."""
