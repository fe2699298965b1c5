"""What torchrun says, in the environment, of the processes that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """A process among those of one run of torchrun.

    Attributes:
        rank: its number, from 0 on.
        count: of processes on all machines.
        local_count: of processes on this machine.
    """

    rank: int = 0
    count: int = 1
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the process that prints."""
        return self.rank == 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started; without torchrun it is the only one."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Launch()
    return Launch(*(int(environment.get(key, default)) for key, default in _KEYS.items()))


_KEYS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
