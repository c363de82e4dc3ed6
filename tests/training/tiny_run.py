"""A tiny upcycled model and a synthetic packed dataset, for training tests and killed children."""

import torch
from torch.utils.data import Dataset

from polycycle.languages import LanguageGroups
from polycycle.surgery import upcycle
from tests.tiny import load, save_dense

GROUPS = LanguageGroups(original=("en",), unseen_original=("fr",), expanded=(("el", "tr"),))


class Sequences(Dataset):
    """Packed sequences of two documents each, in two of the four languages; a padded tail."""

    def __init__(self, count=24, length=20, languages=(0, 2, 3), seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.items = []
        for index in range(count):
            cut = int(torch.randint(4, length - 6, (), generator=generator))
            language_ids = torch.full((length,), languages[index % len(languages)])
            language_ids[cut:] = languages[(index + 1) % len(languages)]
            # Every language has thirty tokens of its own.
            ids = 2 + 30 * language_ids + torch.randint(30, (length,), generator=generator)
            labels = ids.clone()
            labels[[0, cut]] = -100
            positions = torch.cat([torch.arange(cut), torch.arange(length - cut)])
            labels[-2:], language_ids[-2:] = -100, -1
            positions[-2:] = torch.arange(2)
            self.items.append(
                {
                    "input_ids": ids,
                    "labels": labels,
                    "position_ids": positions,
                    "language_ids": language_ids,
                }
            )
        self.num_tokens = count * (length - 2)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def tiny_moe(folder, **settings):
    """A tiny upcycled Llama, float32, with routers that already differ between tokens."""
    save_dense(folder / "dense", initializer_range=0.1)
    upcycle(folder / "dense", folder / "moe", **{"num_experts": 4, "top_k": 2, **settings})
    return load(folder / "moe", dtype=torch.float32)
