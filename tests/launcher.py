"""How tests start Python on several processes."""

import sys


def python_on(processes):
    """The command that takes Python's arguments: Python itself, or torchrun with so many processes on this machine."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else [])]
