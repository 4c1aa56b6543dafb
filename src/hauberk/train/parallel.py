"""Data-parallel training: each process takes its part of every batch, and what they found is added up before the step.

The net is not wrapped: objectives pass through it several times, differentiate twice and swap its weights, which wrappers that hook the
backward pass do not bear. Why this way, and why Lightning Fabric starts the processes: docs/decisions/0008-data-parallel.md.
"""

import os
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Rows
from hauberk.errors import SettingError, require

__all__ = ["World", "alone", "join"]


class World:
    """The processes of one training.

    Args:
        rank: which of them this is, from 0.
        size: how many there are.
        fabric: what carries tensors between them; None where there is one.
    """

    def __init__(self, rank: int, size: int, fabric: Any = None) -> None:
        self.rank, self.size, self._fabric = rank, size, fabric

    @property
    def device(self) -> torch.device | None:
        """Where this process should train; None: anywhere."""
        return None if self._fabric is None else self._fabric.device

    def part(self, rows: Rows) -> Rows:
        """The rows of a batch that are this process's; may be none where the batch is small."""
        return rows.tensor_split(self.size)[self.rank]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each."""
        return tensor if self._fabric is None else self._fabric.all_reduce(tensor, reduce_op="sum")

    def gather(self, value: Any) -> list[Any]:
        """The plain values of all processes, in order of rank."""
        if self._fabric is None:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        if self._fabric is not None:
            self._fabric.barrier()


def alone() -> World:
    """The world of one process."""
    return World(0, 1)


def join(device: str | None = None) -> World:
    """The world that `torchrun` has started this process in; that of one process where it has not.

    Args:
        device: `cpu` or `cuda`; None: what there is.

    Raises:
        MissingExtraError: there are several processes and Lightning Fabric is not installed.
        SettingError: a device that processes cannot share.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        return alone()
    kind = (device or ("cuda" if torch.cuda.is_available() else "cpu")).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise SettingError(f"several processes train on cpu or cuda, got {device}; leave torchrun out")
    fabric_of: Any = require("lightning_fabric", "distributed", "training in several processes").Fabric
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    fabric = fabric_of(accelerator=kind, devices=local, num_nodes=max(1, size // local), strategy="ddp")
    fabric.launch()
    return World(fabric.global_rank, fabric.world_size, fabric)
