"""Measuring a model in the midst of its training."""

from torch import nn

from polycycle.modeling import evaluation_mode


def test_parts_that_trained_or_did_not_are_as_they_were():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model.train()
    model[0].eval()
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True, True]
