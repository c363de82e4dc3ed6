"""Two CPU processes under torchrun give the losses and weights of one."""

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

CHILD = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from safetensors.torch import save_file
from polycycle.training import train_stage
from tests.tiny import load
from tests.training.test_run import SETTINGS
from tests.training.tiny_run import GROUPS, Sequences

folder = Path({folder!r})
settings = dataclasses.replace(SETTINGS, micro_batch_size=None, prior_coef=0.5)
done = train_stage(
    load(folder / "moe", dtype=torch.float32), Sequences(), stage="post_pretrain", groups=GROUPS,
    output_dir=folder / "two", settings=settings, tell=lambda message: None,
)
assert dist.get_world_size() == 2
if dist.get_rank() == 0:
    save_file(done.trained, folder / "two.safetensors")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path):
    settings = dataclasses.replace(SETTINGS, micro_batch_size=None, prior_coef=0.5)
    _, single = run(tmp_path, tmp_path / "one", settings)
    script = tmp_path / "child.py"
    root = str(Path(__file__).parents[2])
    script.write_text(CHILD.format(root=root, folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [line for line in read_metrics(tmp_path / name) if line["kind"] == "train"]
        for name in ("one", "two")
    )
    assert [line["tokens"] for line in one] == [line["tokens"] for line in two]
    for a, b in zip(one, two, strict=True):
        # Weights drift apart by rounding, so losses after some steps agree to five digits.
        for name in ("lm_loss", "balance_loss", "prior_loss", "expert0_share"):
            assert b[name] == pytest.approx(a[name], rel=1e-4)
    trained = load_file(tmp_path / "two.safetensors")
    for name, tensor in single.trained.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-2, atol=1e-3)
