"""Every example runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_runs(example, tmp_path):
    launcher = [sys.executable]
    if "torchrun" in example.read_text():
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(example), str(tmp_path / "out.mtq")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "out.mtq").stat().st_size > 0
