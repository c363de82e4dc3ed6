"""What every test gets: one thread (two workers share two cores), no network, fixed seeds."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch

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
        if "corpus" in item.keywords and not corpus:
            item.add_marker(pytest.mark.skip(reason="POLYCYCLE_CORPUS is not set"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
