"""What every test gets: one thread (two workers share two cores), no network, fixed seeds.

And the same surroundings everywhere: what a CI service or a launcher sets would colour the output
that tests read, wrap it, or make a process wait for others. typer and rich look once, when they are
imported, so this stands before every other import.
"""

import os

for name in list(os.environ):
    if name in {
        *("FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "COLUMNS", "LINES"),
        *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"),
        *("MASTER_PORT", "LOCAL_WORLD_SIZE"),
    } or name.startswith(("ACCELERATE_", "TYPER_")):
        del os.environ[name]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# A busy machine is slow, which is no failure; and the same examples are tried every time.
hypothesis.settings.register_profile("polycycle", deadline=None, derandomize=True)
hypothesis.settings.load_profile("polycycle")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """Tests marked `corpus` or `gpu` are skipped where there is none."""
    corpus = os.environ.get("POLYCYCLE_CORPUS")
    for item in items:
        if item.get_closest_marker("corpus") and not corpus:
            item.add_marker(pytest.mark.skip(reason="POLYCYCLE_CORPUS is not set"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
