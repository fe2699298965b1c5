"""On a Cortex-M4, devices take no more than is promised, and their networks compute what PyTorch computes."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq.experiments import data, models

ROOT = Path(__file__).parents[2]
NEEDED = ("arm-none-eabi-g++", "qemu-system-arm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"no {' or no '.join(NEEDED)}"),
]


@pytest.fixture
def devices(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("devices")


@pytest.mark.parametrize("name", ["lenet5-mnist", "lenet300-mnist", "resnet8"])
@pytest.mark.parametrize("coder", ["huffman", "rans"])
def test_decoders_are_small(coder, name, devices, tmp_path):
    row = devices.decoder_row(coder, name, tmp_path)
    assert row["flash_bytes"] <= 24_000
    assert row["arena_bytes"] - row["kept_bytes"] <= 16_000


def test_mixing_decodes_lenet5_in_64_kb(devices, tmp_path):
    row = devices.decoder_row("mixing", "lenet5-mnist", tmp_path)
    assert row["file_bytes"] == 887
    assert row["arena_bytes"] <= 64_000


def test_a_network_computes_what_pytorch_computes(devices, tmp_path):
    path, network = ROOT / "results/lenet5-digits.mtq", models.by_name("lenet5")()
    metaq.load_into(network, path)
    image = data.by_name("digits")(200).test.inputs[:1]
    (tmp_path / "model.h").write_text(metaq.c_program(path, network, image))
    numbers = ", ".join(f"{value.hex()}f" for value in image.flatten().tolist())
    (tmp_path / "input.h").write_text(f"static const float inputs[1][MODEL_INPUTS] = {{{{{numbers}}}}};\n")
    words = devices.printed(devices.build(tmp_path, "network.cpp", *devices.IN_QEMU))[:-2]
    found = torch.from_numpy(np.array([[int(word, 16) for word in words]], np.uint32).view(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(found, network.eval()(image), rtol=0, atol=1e-4)
