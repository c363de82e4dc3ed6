"""`polycycle env`: versions and machine, for bug reports."""

from polycycle.cli.app import out, verb


@verb("env", "About")
def env() -> None:
    """Print versions, processor, memory, and what precision training would use here."""
    import os
    import platform
    from importlib.metadata import version

    import torch

    import polycycle
    from polycycle.training import fast_bfloat16

    names = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors")
    out.print(f"polycycle {polycycle.__version__}, Python {platform.python_version()}")
    out.print(", ".join(f"{name} {version(name)}" for name in names))
    out.print(f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    out.print(f"GPU: {', '.join(gpus) or 'none'}")
    out.print(f"precision auto: {'bfloat16' if fast_bfloat16() else 'float32'}")
