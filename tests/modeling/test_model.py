"""The model mixin: what it refuses."""

from types import SimpleNamespace

import pytest

from polycycle.errors import CheckpointError
from tests.training.tiny_run import tiny_moe


@pytest.mark.parametrize("name", ["tp_size", "ep_size", "pp_size"])
def test_parallelism_that_would_copy_every_expert_to_every_rank_is_refused(tmp_path, name):
    model = tiny_moe(tmp_path)
    model.config.distributed_config = SimpleNamespace(fsdp_size=2, **{name: 2})
    with pytest.raises(CheckpointError, match=rf"{name}=2.*fsdp_size"):
        type(model)(model.config)
