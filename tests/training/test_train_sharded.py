"""Checkpoints of weights in shards (FSDP2): two processes on a CPU, which accelerate itself would not shard on."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from accelerate import DistributedType
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from timm_asap.training import state
from timm_asap.training.checkpoint import CheckpointFolder

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2,))


def build(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    return SimpleNamespace(model=model, optimizer=SimpleNamespace(optimizer=optimizer), accelerator=accelerator)


def step(run, seed):
    generator = torch.Generator().manual_seed(seed)
    run.model(torch.randn(8, 4, generator=generator)).square().mean().backward()
    run.optimizer.optimizer.step()
    run.optimizer.optimizer.zero_grad()


def whole(run):
    return {name: tensor.full_tensor() for name, tensor in run.model.state_dict().items()}


first = build(0)
step(first, 1)
model, optimizer = state._weights_and_optimizer(first)
folder = CheckpointFolder(__import__("pathlib").Path(sys.argv[1]))
if rank == 0:
    assert {name: tuple(t.shape) for name, t in model.items()}["0.weight"] == (6, 4)
    folder.save({"model": model, "optimizer": optimizer}, 1)
dist.barrier()
_, saved = folder.newest()
second = build(5)
state._set_weights_and_optimizer(second, saved)
step(first, 2)
step(second, 2)
for (name, ours), theirs in zip(whole(second).items(), whole(first).values(), strict=True):
    assert torch.equal(ours, theirs), name
dist.destroy_process_group()
"""


def test_shards_are_saved_whole_and_come_back(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(program), str(tmp_path / "checkpoints")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
