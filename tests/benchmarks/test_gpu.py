"""`benchmarks/gpu.py`: sizes by chunks, also where there is no GPU."""

import importlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_smaller_chunks_have_more_lanes_and_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    torch.manual_seed(0)
    save_file({"w": torch.randn(600, 1000), "steps": torch.arange(9)}, tmp_path / "model.safetensors")
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["gpu.py", str(tmp_path / "model.safetensors"), "--output", str(output)])
    importlib.import_module("gpu").main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["chunk_symbols"] for row in rows] == [None, 1 << 18, 1 << 17, 1 << 16]
    for key in ("file_bytes", "lanes"):
        assert [row[key] for row in rows] == sorted(row[key] for row in rows)
    assert rows[-1]["lanes"] > 32 * 9
    assert 1.2e6 > rows[-1]["bytes"] - 600 * 1000 > 0
    assert "65536" in capsys.readouterr().out
