"""How many experts each layer gets, from how similar languages are in it. Loads no torch."""

from polycycle.allocation.rule import (
    AllocationPlan,
    allocate_experts,
    allocate_export_friendly,
    share_of_uniform,
    with_dense_layers,
)
from polycycle.allocation.table import (
    SimilarityTable,
    read_similarity,
    read_table,
    similarity_table,
)

__all__ = [
    "AllocationPlan",
    "SimilarityTable",
    "allocate_experts",
    "allocate_export_friendly",
    "read_similarity",
    "read_table",
    "share_of_uniform",
    "similarity_table",
    "with_dense_layers",
]
