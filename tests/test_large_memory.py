"""Memory is bounded by chunks and threads, not by the checkpoint: measured in processes of their own."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

CHILD = """
import os, sys
os.cpu_count = lambda: 2
from metaq.cli import app
try:
    app.main()
finally:
    sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def megabytes(*arguments):
    """The highest resident size of a command."""
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(finished.stderr.split()[-2]) / 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 MB in three shards: more than the threads' chunks and the libraries take together."""
    path = tmp_path_factory.mktemp("large") / "model"
    path.mkdir()
    places = {}
    for shard in range(3):
        weights = {f"{shard}.weight": 0.02 * torch.randn(25000, 2000).bfloat16()}
        save_file(weights, path / f"{shard}.safetensors")
        places |= dict.fromkeys(weights, f"{shard}.safetensors")
    (path / "model.safetensors.index.json").write_text(str({"weight_map": places}).replace("'", '"'))
    return path


@pytest.mark.parametrize(
    "options", [["--lossless"], ["--step", "0.01", "--coder", "rans"]], ids=["lossless", "quantized"]
)
def test_thrice_the_checkpoint_takes_no_more(tmp_path, folder, options):
    part = megabytes("compress", folder / "0.safetensors", "-o", tmp_path / "part.mtq", *options)
    whole = megabytes("compress", folder, "-o", tmp_path / "small", *options)
    assert max(part, whole) < 600
    assert whole < 1.25 * part
    part = megabytes("decompress", tmp_path / "part.mtq", "-o", tmp_path / "part.safetensors")
    whole = megabytes("decompress", tmp_path / "small", "-o", tmp_path / "back")
    assert max(part, whole) < 550
    assert whole < 1.25 * part
