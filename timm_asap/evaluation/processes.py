"""One process or several: sharding of the batches, and the reduction of what they measured."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from timm_asap.errors import UserError, first_line

__all__ = ["Processes", "resolve_device"]


class Processes:
    """The processes that `accelerate launch` or `torchrun` started; one without them.

    Args:
        device: Where to compute; by default the process's own GPU, or the CPU where there is none.

    Raises:
        UserError: If there is no such device, or if it cannot be shared by the processes.
    """

    def __init__(self, device: str | None = None) -> None:
        # several processes without a GPU must be told so: accelerate 1.15 would run each as if it were alone
        self._state = PartialState(cpu=not torch.accelerator.is_available())
        self.device = self._state.device if device is None else resolve_device(device)
        if self.count > 1 and self.device.type != "cpu" and self.device.index is not None and device is not None:
            raise UserError(f"--device {device}: {self.count} processes each take their own; leave the flag out")

    @property
    def count(self) -> int:
        """How many there are."""
        return self._state.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self._state.is_main_process

    def share(self, batches: list[int]) -> list[int]:
        """The batches, of those that are left, which this process measures: whole ones, in turn."""
        return batches[self._state.process_index :: self.count]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes of a CPU tensor in which each filled in its own part, and zeros elsewhere.

        Adding zeros changes no bit, so the result does not depend on the number of processes.
        """
        if self.count == 1:
            return values
        return reduce(values.to(self._state.device), "sum").cpu()

    def gather(self, own: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        return own if self.count == 1 else gather_object(own)

    def wait(self) -> None:
        """Go on when all have come here."""
        self._state.wait_for_everyone()


def resolve_device(name: str | None) -> torch.device:
    """The device of that name; without one cuda where there is one, else the CPU.

    Raises:
        UserError: If PyTorch does not know it, or cannot compute on it here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # a sum comes back only where something computes: "meta" makes tensors, and no numbers
        total = torch.ones(2, device=torch.device(name)).sum()
        if total.item() != 2:
            raise RuntimeError("it does not add")
    except Exception as error:  # a missing backend shows itself as any of a dozen kinds
        why = first_line(error).split(". ")[0][:120]
        raise UserError(f"--device {name} cannot be used: {why}; expected cpu or cuda") from error
    return total.device
