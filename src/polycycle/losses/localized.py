"""LoRAMoE's localized balancing constraint: half of the experts lean to each kind of text.

Letters: B sequences, T tokens of each, E LoRA experts of an adapted map, M samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def localized_balancing_loss(
    weights: Sequence[Tensor], is_original: Tensor, is_real: Tensor, *, delta: float
) -> Tensor:
    """Sum over adapted maps of the squared coefficient of variation of Z = I ∘ Q.

    Q [M, E] is each expert's mean weight over the tokens of a sample; I is 1 + δ where expert and
    sample are of one kind and 1 − δ elsewhere. The first E ÷ 2 experts are of the kind of expanded
    languages, the others of that of original ones. So experts of one kind share their work evenly,
    and each kind gets more of its own text.

    Args:
        weights: per adapted map [B, T, E], each token's weights over the experts.
        is_original: [B, T] bool, tokens of original languages.
        is_real: [B, T] bool, False for padding.
        delta: δ, at least 0 and below 1.

    Returns:
        A scalar; 0 where there is no token at all.

    Source: LoRAMoE, arXiv:2312.09979, §3.3, with the released code's variance over squared mean.
    Differs: a sample is what one kind of text holds of a packed row, and Q a mean over its tokens
        instead of a sum, because those samples are not equally long.
    """
    if not weights:
        raise ValueError(
            "no weights of LoRA experts: record_mixing() must wrap the forward pass of a model "
            "that has some"
        )
    kinds = torch.stack([is_real & ~is_original, is_real & is_original])  # [2, B, T]
    return torch.stack([_variation(layer, kinds, delta) for layer in weights]).sum()


def _variation(weights_BTE: Tensor, kinds_2BT: Tensor, delta: float) -> Tensor:
    wide = weights_BTE if weights_BTE.dtype == torch.float64 else weights_BTE.float()
    num_experts = wide.shape[-1]
    masks = kinds_2BT.to(wide.dtype)
    counts_2B = masks.sum(-1)
    means_2BE = torch.einsum("gbt,bte->gbe", masks, wide) / counts_2B.clamp(min=1)[..., None]
    leans = torch.full((2, 1, num_experts), 1.0 - delta, dtype=wide.dtype, device=wide.device)
    leans[0, :, : num_experts // 2] = 1.0 + delta
    leans[1, :, num_experts // 2 :] = 1.0 + delta
    samples = (means_2BE * leans)[counts_2B > 0].flatten()
    if len(samples) < 2:
        return wide.sum() * 0.0
    return samples.var() / samples.mean().square()
