"""Checkpoints' folders."""

import json

import pytest
import safetensors.torch


@pytest.fixture
def write_folder(tmp_path):
    """Writes a folder of shards, each with the tensors given for its file name, and its index."""

    def write(shards):
        path = tmp_path / "model"
        path.mkdir()
        for name, tensors in shards.items():
            safetensors.torch.save_file(tensors, path / name)
        places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        return path

    return write
