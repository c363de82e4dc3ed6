"""How many experts each layer gets, and which languages they belong to. Loads no torch."""

from polycycle.allocation.assignment import Assignment, assign_experts
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
    "Assignment",
    "SimilarityTable",
    "allocate_experts",
    "allocate_export_friendly",
    "assign_experts",
    "read_similarity",
    "read_table",
    "share_of_uniform",
    "similarity_table",
    "with_dense_layers",
]
