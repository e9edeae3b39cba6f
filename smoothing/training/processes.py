"""Training by several processes, one a device: each takes its share of every batch, and all take the same step.

`torch.distributed` does the talking; whoever starts the processes (torchrun, `certify train --processes`) has set it up. The
gradients are averaged here and not by a wrapper around the model: the steps of an attack pass through the network many times
before one update, which wrappers that hook into the backward pass are not made for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Its number, from 0; process 0 leads: it alone writes, prints and evaluates.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """Return this process's place: alone, unless `torch.distributed` has been set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes, prints and evaluates."""
        return self.rank == 0

    @property
    def purpose(self) -> tuple[str | int, ...]:
        """What distinguishes the random streams of this process; nothing where it is alone."""
        return () if self.count == 1 else ("rank", self.rank, self.count)

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of the rows of a batch; the parts are equal up to one row."""
        return rows.tensor_split(self.count)[self.rank]

    def scale(self, own: int, whole: int) -> float:
        """Return the factor on a mean over `own` rows that makes the mean over the processes one over `whole` rows."""
        return own * self.count / whole

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients of each process by their mean over all; a missing one counts as 0."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def average_buffers(self, module: nn.Module) -> None:
        """Replace floating buffers (the statistics of batch norm) by their mean, so that all processes hold the same."""
        if self.count > 1:
            self._average([buffer for buffer in module.buffers() if buffer.is_floating_point()])

    def same_weights(self, module: nn.Module) -> None:
        """Give all processes the weights of process 0."""
        if self.count > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def tell(self, value: Any) -> Any:
        """Return process 0's value in every process; the others' own are dropped."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def _average(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        # One message: small tensors would each cost a round trip.
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, mean in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.detach().copy_(mean.reshape(tensor.shape))
