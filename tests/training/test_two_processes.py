"""Two CPU processes under torchrun give the losses and weights of one, copied or sharded."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polycycle.training import read_metrics
from tests.training.test_run import SETTINGS, run

ROOT = Path(__file__).parents[2]
TWO_SETTINGS = dataclasses.replace(SETTINGS, micro_batch_size=None, prior_coef=0.5)
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from polycycle.ranks import join_ranks
from polycycle.stages.train import load_for_training
from polycycle.training import train_stage
from tests.training.test_two_processes import TWO_SETTINGS
from tests.training.tiny_run import GROUPS, Sequences

folder, fsdp = Path({folder!r}), {fsdp}
join_ranks()
model = load_for_training(folder / "moe", fsdp=fsdp)
assert all(isinstance(p, DTensor) == fsdp for p in model.parameters())
if fsdp:  # each rank holds a part, frozen parameters included
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.6 * sum(p.numel() for p in model.parameters())
done = train_stage(
    model, Sequences(), stage="post_pretrain", groups=GROUPS,
    output_dir=folder / "two", settings=TWO_SETTINGS, tell=lambda message: None,
)
assert dist.get_world_size() == 2
if dist.get_rank() == 0:
    save_file(done.trained, folder / {result!r})
dist.barrier()
dist.destroy_process_group()
"""


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run_two(folder, *, fsdp, result="two.safetensors"):
    script = folder / "child.py"
    script.write_text(CHILD.format(root=str(ROOT), folder=str(folder), fsdp=fsdp, result=result))
    torchrun(str(script))
    return load_file(folder / result)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["copied", "sharded"])
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path, fsdp):
    _, single = run(tmp_path, tmp_path / "one", TWO_SETTINGS)
    trained = run_two(tmp_path, fsdp=fsdp)
    one, two = (
        [line for line in read_metrics(tmp_path / name) if line["kind"] == "train"]
        for name in ("one", "two")
    )
    assert [line["tokens"] for line in one] == [line["tokens"] for line in two]
    for a, b in zip(one, two, strict=True):
        # Weights drift apart by rounding, so losses after some steps agree to five digits.
        for name in ("loss", "lm_loss", "balance_loss", "prior_loss", "expert0_share"):
            assert b[name] == pytest.approx(a[name], rel=1e-4)
    for name, tensor in single.trained.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_sharded_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(tmp_path):
    run(tmp_path, tmp_path / "one", TWO_SETTINGS)  # writes the model
    whole = run_two(tmp_path, fsdp=True)
    (last,) = (tmp_path / "two").glob("checkpoint-6")
    last.rename(tmp_path / "taken-away")
    resumed = run_two(tmp_path, fsdp=True, result="resumed.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert [line["step"] for line in read_metrics(tmp_path / "two")] == [2, 4, 6]
