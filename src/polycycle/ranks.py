"""The processes of one run, as `torchrun` or `accelerate launch` start them; usually just one.

All of them share the run folder. The first writes; the others take part in training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

# Other ranks wait while the first evaluates or tokenizes, which takes longer than torch's defaults.
_TIMEOUT = timedelta(hours=24)


def num_ranks() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first_rank() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def join_ranks() -> None:
    """Connect the processes; does nothing in a run of one, or when they are connected."""
    if num_ranks() == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)


def leave_ranks() -> None:
    """Disconnect in good order at the end of a run."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_ranks() -> None:
    """Go on when every process has come here."""
    if num_ranks() > 1:
        any_rank(flag=False)


def any_rank(*, flag: bool) -> bool:
    """Whether `flag` is true on any process; every process must ask."""
    if num_ranks() == 1:
        return flag
    import torch
    import torch.distributed as dist

    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags)
    return bool(flags.item())


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first process does the block alone; the others follow, and find its files."""
    if not is_first_rank():
        wait_for_ranks()
    yield
    if is_first_rank():
        wait_for_ranks()
