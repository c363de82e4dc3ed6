"""The dense families that can be upcycled, one small file each.

Importing this package loads neither torch nor transformers; the families themselves are imported
when one is asked for, or all of them when transformers' Auto classes are loaded.
"""

from polycycle.families.model_types import has_lora_experts, is_upcycled
from polycycle.families.registry import (
    SUPPORTED,
    family_of,
    family_of_dense,
    family_of_upcycled,
    register_when_transformers_loads,
)

__all__ = [
    "SUPPORTED",
    "family_of",
    "family_of_dense",
    "family_of_upcycled",
    "has_lora_experts",
    "is_upcycled",
    "register_when_transformers_loads",
]
