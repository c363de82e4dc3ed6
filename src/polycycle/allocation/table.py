"""How similar languages are in each layer: the table, the one number per layer, and its file.

Letters: L layers, D hidden size, M languages.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polycycle.errors import ConfigError, DataError
from polycycle.languages import LanguageGroups


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityTable:
    """Mean cosines of feed-forward inputs, for every layer and every pair of languages.

    Attributes:
        groups: who is original and who is expanded. The last group is the one to come; all before
            it count as original. Unseen original languages are left out.
        values: [L, M, M], languages in the order of `languages`. A language with itself is the mean
            over all pairs of its tokens, each token with itself included.
    """

    groups: LanguageGroups
    values: tuple[tuple[tuple[float, ...], ...], ...]

    @property
    def original(self) -> tuple[str, ...]:
        """Languages that the model has: original ones, and those of earlier groups."""
        earlier = (tag for group in self.groups.expanded[:-1] for tag in group)
        return (*self.groups.original, *earlier)

    @property
    def expanded(self) -> tuple[str, ...]:
        """Languages of the group to come."""
        return self.groups.expanded[-1]

    @property
    def languages(self) -> tuple[str, ...]:
        """The M languages of the table, in order: `original`, then `expanded`."""
        return (*self.original, *self.expanded)

    @property
    def expanded_original(self) -> tuple[float, ...]:
        """[L], mean over all pairs of an expanded and an original language."""
        cut = len(self.original)
        return self._mean(list(product(range(cut, len(self.languages)), range(cut))))

    @property
    def expanded_expanded(self) -> tuple[float, ...] | None:
        """[L], mean over all pairs of two expanded languages; None when there is only one."""
        pairs = list(combinations(range(len(self.original), len(self.languages)), 2))
        return self._mean(pairs) if pairs else None

    @property
    def per_layer(self) -> tuple[float, ...]:
        """S_i, [L]: the mean of the two means.

        Source: LayerMoE, arXiv:2505.22582, §3.1, and the released code (pairs of two *different*
            expanded languages).
        Differs: a single expanded language has no such pair, and S_i is `expanded_original`.
        """
        if self.expanded_expanded is None:
            return self.expanded_original
        pairs = zip(self.expanded_original, self.expanded_expanded, strict=True)
        return tuple((to_original + among) / 2 for to_original, among in pairs)

    def _mean(self, pairs: list[tuple[int, int]]) -> tuple[float, ...]:
        return tuple(fmean(layer[a][b] for a, b in pairs) for layer in self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the number per layer first, then where it comes from."""
        among = self.expanded_expanded
        return {
            "per_layer": list(self.per_layer),
            "expanded_original": list(self.expanded_original),
            "expanded_expanded": None if among is None else list(among),
            "groups": {
                "original": list(self.groups.original),
                "expanded": [list(group) for group in self.groups.expanded],
            },
            "languages": list(self.languages),
            "table": [[list(row) for row in layer] for layer in self.values],
        }


def similarity_table(
    means: Mapping[str, NDArray[np.float64]], groups: LanguageGroups
) -> SimilarityTable:
    """The table out of one mean unit vector per layer and language.

    The mean of cos(x, y) over all pairs is the dot product of the two mean unit vectors, because
    cos(x, y) = x̂ · ŷ is linear in each.

    Args:
        means: float64 [L, D] by language.
        groups: at least one original and one expanded language.

    Source: LayerMoE, arXiv:2505.22582, §3.1.
    """
    if not groups.expanded:
        raise ConfigError(
            "similarity is of languages to add with those the model has: give --expanded el,hu,tr"
        )
    empty = SimilarityTable(groups=groups, values=())
    stacked = np.stack([means[language] for language in empty.languages])
    values = np.einsum("ald,bld->lab", stacked, stacked)
    return replace(
        empty, values=tuple(tuple(tuple(row) for row in layer) for layer in values.tolist())
    )


def read_table(path: Path) -> SimilarityTable:
    """The whole table, out of what `polycycle similarity` or a run wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    groups = LanguageGroups(
        original=tuple(found["groups"]["original"]),
        expanded=tuple(tuple(group) for group in found["groups"]["expanded"]),
    )
    values = tuple(tuple(tuple(row) for row in layer) for layer in found["table"])
    return SimilarityTable(groups=groups, values=values)


def read_similarity(path: Path) -> tuple[float, ...]:
    """S_i of each layer, out of what `polycycle similarity` wrote or `{"per_layer": [S_0, …]}`.

    Raises:
        DataError: no such file, not JSON, or no list of numbers under `per_layer`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"--similarity {path}: cannot be read ({error.strerror}). "
            f"Make it: polycycle similarity MODEL … --out {path}"
        ) from error
    except ValueError as error:
        raise DataError(f"--similarity {path}: not JSON ({error})") from error
    if not isinstance(found, dict) or "per_layer" not in found:
        keys = ", ".join(found) if isinstance(found, dict) else "no keys at all"
        raise DataError(
            f"--similarity {path}: no `per_layer` in it ({keys or 'it is empty'}). Give what "
            'polycycle similarity wrote, or {"per_layer": [0.41, 0.38, …]} with a number per layer'
        )
    values = found["per_layer"]
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise DataError(
            f"--similarity {path}: `per_layer` must be a list of numbers, one for each layer"
        )
    return tuple(float(value) for value in values)
