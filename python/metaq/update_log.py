"""Streams of updates: the steps of a network in one file that grows (docs/format.md, "Update logs")."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metaq.differences import StateNetwork
from metaq.format.update_log import LogPlace, LogReader, LogWriter
from metaq.tensors import new_tensor


class DeltaWriter(LogWriter):
    """Appends the steps of a network to an update log: see `metaq.format.update_log.LogWriter`::

        with metaq.DeltaWriter("run.mtql", keyframe_every=50) as log:
            for step in range(3):
                log.append({"weight": torch.full((4,), step / 2)}, step)
            log.drop(before=1)

    Steps are written without loss, the first of ``keyframe_every`` whole, the others as differences. When `append`
    returns, the step is on the disk; wherever the program is killed after that, it is there.
    """

    def append(
        self, state: Mapping[str, Tensor], step: int | None = None, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Write a state dict, of tensors on any device, as the next step; returns the bytes that it takes.

        Args:
            step: its number, above all that are there; by default one more than the last.
            metadata: any texts.

        Raises:
            InputError: another number, a tensor that no file can hold, or no room; the log is as it was.
        """
        return self.append_network(StateNetwork(state, metadata), step)


class DeltaReader(LogReader[Tensor]):
    """The steps of an update log, which may grow meanwhile: see `metaq.format.update_log.LogReader`::

    with metaq.DeltaReader("run.mtql") as log:
        state = log.read()  # of the last step
        for step, state in log.read_from(log.steps[0]):
            ...
    """

    def __init__(self, file: LogPlace) -> None:
        super().__init__(file, new_tensor)
