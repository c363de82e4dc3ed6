"""Methods that an upcycled mixture of experts is compared with.

Each adds something to the dense base (or nothing), says which parameters train, and ends as a plain
folder that transformers loads without polycycle; LoRAMoE's alone has a class of ours. Merges give
such a folder the post-training of a sibling.
"""

from polycycle.baselines.full import train_everything
from polycycle.baselines.half import train_half
from polycycle.baselines.llama_pro import (
    expand_blocks,
    llama_pro_names,
    new_block_places,
    plan_blocks,
    train_new_blocks,
)
from polycycle.baselines.lora import add_adapters, merged_tensors
from polycycle.baselines.loramoe import (
    add_lora_experts,
    plan_lora_experts,
    train_lora_experts,
)
from polycycle.baselines.merging import MergePlan, MergeRule, fill_merged, plan_merge
from polycycle.baselines.shielded import (
    column_scores,
    highest_columns,
    linear_maps,
    shield_columns,
    shielded_tensors,
)

__all__ = [
    "MergePlan",
    "MergeRule",
    "add_adapters",
    "add_lora_experts",
    "column_scores",
    "expand_blocks",
    "fill_merged",
    "highest_columns",
    "linear_maps",
    "llama_pro_names",
    "merged_tensors",
    "new_block_places",
    "plan_blocks",
    "plan_lora_experts",
    "plan_merge",
    "shield_columns",
    "shielded_tensors",
    "train_everything",
    "train_half",
    "train_lora_experts",
    "train_new_blocks",
]
