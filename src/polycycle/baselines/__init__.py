"""Methods that an upcycled mixture of experts is compared with.

Each adds something to the dense base (or nothing), says which parameters train, and ends as a plain
folder that transformers loads without polycycle; LoRAMoE's alone has a class of ours.
"""

from polycycle.baselines.full import train_everything
from polycycle.baselines.half import train_half
from polycycle.baselines.llama_pro import expand_blocks, new_block_places, train_new_blocks
from polycycle.baselines.lora import add_adapters, merged_tensors
from polycycle.baselines.loramoe import add_lora_experts, train_lora_experts

__all__ = [
    "add_adapters",
    "add_lora_experts",
    "expand_blocks",
    "merged_tensors",
    "new_block_places",
    "train_everything",
    "train_half",
    "train_lora_experts",
    "train_new_blocks",
]
