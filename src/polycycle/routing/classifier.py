"""The language classifier in front of a router: original languages go to expert 0 alone.

Letters: B sequences, S tokens of each, N = B·S, D hidden size, K experts per token.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from polycycle.experts import FROZEN_EXPERT, NO_EXPERT

ClassifierForm = Literal["token", "sequence"]


def wide_product(hidden_BSD: Tensor, weight_D: Tensor) -> Tensor:
    """h·w for each token [B, S] in float32 (float64 stays), under autocast, too.

    So prefill and decoding round alike, whatever their shapes.
    """
    wide = torch.float64 if hidden_BSD.dtype == torch.float64 else torch.float32
    device = hidden_BSD.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return hidden_BSD.to(wide) @ weight_D.to(wide)
    with torch.autocast(device, enabled=False):
        return hidden_BSD.to(wide) @ weight_D.to(wide)


class LanguageClassifier(nn.Module):
    """One vector w; the text is judged original where w·x is above the threshold.

    It starts at zero, and zero is not above zero: until it is trained nothing is judged original,
    and the layer computes what it computes without a classifier.

    Args:
        hidden_size: D.
        threshold: τ. A higher one sends fewer tokens to expert 0 alone: less is kept, more gained.
        form: `token` decides for each token by itself, so neither packing, padding nor a cache
            changes a decision. `sequence` decides once per sequence by the sum over its positions,
            as published; it sees the future, and is wrong for packed or cached sequences.

    Source: LayerMoE, arXiv:2505.22582, and its released code.
    Differs: the paper has one vector per group and takes the larger score. With two groups that is
        the sign of w = w_original − w_expanded; groups after the first count as expanded.
    """

    def __init__(self, hidden_size: int, *, threshold: float, form: ClassifierForm) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.threshold = threshold
        self.form = form

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """Scores [N], float32 (float64 stays): the higher, the more original."""
        scores_BS = wide_product(hidden_BSD, self.weight)
        if self.form == "sequence":
            scores_BS = scores_BS.sum(-1, keepdim=True).expand_as(scores_BS)
        return scores_BS.reshape(-1)

    def judge(self, scores_N: Tensor) -> Tensor:
        """Which tokens are original, [N] bool.

        In a stage that trains others but not it (post-pretraining) nothing is: it has not met the
        languages that are being learned, and would keep their text from the experts that learn.
        """
        if self.training and not self.weight.requires_grad:
            return torch.zeros_like(scores_N, dtype=torch.bool)
        return scores_N > self.threshold

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, form={self.form!r}"


def send_to_frozen_expert(
    is_original_N: Tensor, expert_ids_NK: Tensor, expert_weights_NK: Tensor
) -> tuple[Tensor, Tensor]:
    """Ids and weights with expert 0 alone, at weight 1, for the tokens judged original."""
    alone = torch.full_like(expert_ids_NK, NO_EXPERT)
    alone[:, 0] = FROZEN_EXPERT
    full = torch.zeros_like(expert_weights_NK)
    full[:, 0] = 1
    judged = is_original_N[:, None]
    return (
        torch.where(judged, alone, expert_ids_NK),
        torch.where(judged, full, expert_weights_NK),
    )
