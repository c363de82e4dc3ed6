"""Dense methods that a mixture of experts is compared with.

Each adds something to the dense base (or nothing), says which parameters train, and ends as a plain
folder that transformers loads without polycycle.
"""

from polycycle.baselines.full import train_everything
from polycycle.baselines.llama_pro import expand_blocks, new_block_places, train_new_blocks
from polycycle.baselines.lora import add_adapters, merged_tensors

__all__ = [
    "add_adapters",
    "expand_blocks",
    "merged_tensors",
    "new_block_places",
    "train_everything",
    "train_new_blocks",
]
