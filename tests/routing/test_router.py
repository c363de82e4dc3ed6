"""The weights of the chosen experts."""

import pytest
import torch

from polycycle.routing import Router


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("renormalize", [True, False])
def test_weights_are_the_routers_own_or_sum_to_one(top_k, renormalize):
    torch.manual_seed(0)
    router = Router(
        8,
        {"0": 4},
        top_k=top_k,
        renormalize=renormalize,
        weights_dtype="float32",
        layer_index=0,
    )
    torch.nn.init.normal_(router.rows["0"])
    hidden = torch.randn(2, 5, 8)
    with torch.no_grad():
        routed = router(hidden)
        probs = (hidden.reshape(10, 8) @ router.rows["0"].T).softmax(-1)
    own = probs.gather(1, routed.expert_ids)
    assert torch.equal(own.sort(1, descending=True).values, probs.topk(top_k).values)
    wanted = own / own.sum(1, keepdim=True) if renormalize else own
    torch.testing.assert_close(routed.expert_weights, wanted)
