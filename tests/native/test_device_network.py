"""Generated forward passes compute on a device what PyTorch computes."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import metaq
from metaq.compressed_model import CompressedModel
from metaq.errors import InputError
from metaq.experiments import data, models
from metaq.integrations.device import sequential_layers
from metaq.matrix_layout import MatrixLayout

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
SMALL = ["METAQ_SMALL", "METAQ_NO_SIMD", "METAQ_NO_THREADS", "METAQ_NO_HEAP", "METAQ_NO_DIFFERENCES", "METAQ_REPORT"]
FLAGS = [
    "-std=c++20",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    *(f"-D{name}" for name in SMALL),
]
TOLERANCE = 1e-4

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++")


def write_sources(folder, header, inputs):
    """model.h, and input.h with the samples."""
    (folder / "model.h").write_text(header)
    rows = ["{" + ", ".join(f"{value.hex()}f" for value in row) + "}" for row in inputs.flatten(1).tolist()]
    (folder / "input.h").write_text("static const float inputs[][MODEL_INPUTS] = {\n" + ",\n".join(rows) + "};\n")


def parsed(printed):
    words = [[int(word, 16) for word in line.split()[:-2]] for line in printed.splitlines()]  # the last tell the stack
    return torch.from_numpy(np.array(words, np.uint32).view(np.float32))


def computed(folder, header, inputs):
    """What a program for this machine computes."""
    write_sources(folder, header, inputs)
    source, program = ROOT / "examples/device/network.cpp", folder / "network"
    subprocess.run([COMPILER, *FLAGS, "-O1", f"-I{ROOT / 'src'}", f"-I{folder}", source, "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0
    return parsed(run.stdout)


def assert_close(found, network, inputs):
    with torch.no_grad():
        expected = network.eval()(inputs)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def results_network(name, recipe):
    """A file of results/ with the network of its recipe, as it decodes."""
    path = ROOT / f"results/{recipe}.mtq"
    network = models.by_name(name)()
    metaq.load_into(network, path)
    return path, network


@needs_compiler
def test_lenet5_on_digits(tmp_path):
    path, network = results_network("lenet5", "lenet5-digits")
    images = data.by_name("digits")(200).test.inputs[:1]
    assert_close(computed(tmp_path, metaq.c_program(path, network, images[:1]), images), network, images)


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif("METAQ_DATA" not in os.environ, reason="no METAQ_DATA")
@pytest.mark.parametrize(
    ("name", "recipe"),
    [("lenet5", "lenet5-mnist"), ("lenet5-caffe", "lenet5-caffe-mnist"), ("lenet300", "lenet300-mnist")],
)
def test_lenets_on_mnist(name, recipe, tmp_path):
    path, network = results_network(name, recipe)
    images = data.by_name("mnist")(5000).test.inputs[:5]
    assert_close(computed(tmp_path, metaq.c_program(path, network, images[:1]), images), network, images)


def other_network(path):
    """A network of what LeNets do not have, in a file with exact biases, and with a matrix that is coded by columns."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    convolutions += [nn.Conv2d(4, 6, (1, 3), bias=False), nn.AvgPool2d((2, 1)), nn.Flatten()]
    network = nn.Sequential(*convolutions, nn.Linear(24, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 5, bias=False))
    config = metaq.CompressionConfig(bits=5, coder="rans")
    model = metaq.compress_state_dict(network.state_dict(), config)
    by_columns = replace(model.tensors["6.weight"], matrix=MatrixLayout(1, np.arange(40) % 5, None, by_columns=True))
    metaq.save(replace(model, tensors=model.tensors | {"6.weight": by_columns}), path)
    metaq.load_into(network, path)
    return network


@needs_compiler
@pytest.mark.slow
def test_strides_paddings_pools_and_exact_biases(tmp_path):
    network = other_network(tmp_path / "model.mtq")
    inputs = torch.randn(4, 2, 16, 16)
    header = metaq.c_program(tmp_path / "model.mtq", network, inputs[:1])
    assert_close(computed(tmp_path, header, inputs), network, inputs)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.first(inputs) + inputs


class Branching(nn.Module):
    def forward(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


@pytest.mark.parametrize(
    ("network", "example", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.zeros(1, 4), "1: expected Linear, .* found GELU"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), torch.zeros(1, 4, 2, 2), "0: expected Linear, .*groups=2"),
        (nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), torch.zeros(1, 4, 3, 3), "0: expected Linear, .*AvgPool2d"),
        (nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 3, 4), "0: expected Linear, .* found Linear"),
        (nn.Sequential(nn.ReLU()), torch.zeros(1, 4), "0: expected Linear, .* found ReLU"),
        (nn.Identity(), torch.zeros(1, 4), "output: expected a sequence of layers, found one"),
        (Residual(), torch.zeros(1, 4), "add: expected a sequence of layers, found one that takes other inputs"),
        (Branching(), torch.zeros(1, 4), "Branching: expected a network that torch.fx traces, found: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_that_devices_do_not_compute(network, example, words):
    with pytest.raises(InputError, match=words):
        sequential_layers(network, example)


def test_files_of_other_networks(tmp_path):
    path, example = tmp_path / "model.mtq", torch.zeros(1, 4)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    state = {name: value.detach() for name, value in network.state_dict().items()}

    def refusal(state):
        metaq.save(metaq.compress(state, 0.01), path)
        with pytest.raises(InputError) as raised:
            metaq.c_program(path, network, example)
        return str(raised.value).removeprefix(str(path))

    assert refusal({name: state[name] for name in ("0.weight", "0.bias", "2.weight")}) == (
        ": expected tensor '2.bias' of layer '2', found no such tensor"
    )
    assert refusal(dict(reversed(state.items()))) == (
        ": expected '2' behind the layers before it, found it earlier; save the tensors in the order of the layers"
    )
    assert refusal(state | {"0.bias": state["0.bias"].half()}) == (
        ", tensor '0.bias': expected 3 elements of float32, found 3 elements of float16"
    )
    assert refusal(state | {"2.weight": torch.zeros(3, 3)}) == (
        ", tensor '2.weight': expected 6 elements of float32, found 9 elements of float32"
    )
    metaq.save(CompressedModel(dict(state)), path)
    with pytest.raises(InputError, match=r"tensor '0\.weight': expected it quantized, found it exact; compress"):
        metaq.c_program(path, network, example)
