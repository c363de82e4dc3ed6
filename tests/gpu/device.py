"""Where the tests of this folder run, and what they warn of."""

import copy

import pytest

DEVICE = "cuda"

# Whether CUDA libraries warn, and of what, depends on driver and versions: not an error here.
ON_GPU = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def on_gpu(model):
    """A copy of the model there."""
    return copy.deepcopy(model).to(DEVICE)


def is_on_gpu(model):
    return {parameter.device.type for parameter in model.parameters()} == {DEVICE}


def distance(got, wanted):
    """Norm of the difference over the norm of what is wanted, in float64."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    return ((got - wanted).norm() / wanted.norm().clamp(min=1e-30)).item()
