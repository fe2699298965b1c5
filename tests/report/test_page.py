import importlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest
import safetensors.torch
import torch

from metaq import compressed_model
from metaq.codebook import IntegerCodebook, TableCodebook, UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel
from metaq.errors import FormatError, InputError, MetaqError
from metaq.experiments.recipe import load_recipe
from metaq.experiments.run import Run
from metaq.files import write_atomically
from metaq.format.reader import Reader
from metaq.report import page, plots
from metaq.report.page import write_report

LOADING = {"src", "srcset", "data", "action", "poster", "background"}
VOID = {"meta", "link", "br", "img"}


class Scan(HTMLParser):
    """Attributes that make a browser load something, text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.ids, self.labels, self.words = [], [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            is_reference = name in ("href", "xlink:href") and not value.startswith("#")
            self.loads += [(tag, name, value)] if name in LOADING or is_reference else []
            self.ids += [value] if name == "id" else []
            self.labels += [value] if name == "aria-label" else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    short = ["threads=1", "float_training.epochs=1", "training.epochs=2", "training.last_phase_epochs=1"]
    Run(load_recipe("lenet5-digits", short), folder, False, lambda *_: None).train()
    return folder


@pytest.fixture(scope="module")
def text(trained):
    """The page of a run, untouched."""
    return write_report(trained).read_text(encoding="utf-8")


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))


def replace_model(folder, tensors, before):
    """Another network in the place of a run's."""
    write_atomically(folder / "model.mtq", compressed_model.encode(CompressedModel(tensors)))
    write_atomically(folder / "float.safetensors", safetensors.torch.save(before))


def test_page_is_whole_and_loads_nothing(text):
    scan = Scan(text)
    assert scan.open == []
    assert scan.loads == []
    assert len(set(scan.ids)) == len(scan.ids)
    assert not re.search(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    assert len(text) < 1_500_000


def test_page_says_what_the_run_says(text, trained):
    scan = Scan(text)
    result = json.loads((trained / "result.json").read_text())
    numbers = [f"{result['float32_bytes']:,}", f"{result['file_bytes']:,} bytes", f"{result['ratio']:,.1f}"]
    numbers += [f"{result[when]['accuracy']:.2%}" for when in ("test_before", "test_after")]
    for expected in [*numbers, "lenet5-digits", "mixing", "zero-order entropy", "method.strength", "6e-05"]:
        assert expected in scan.text
    assert result["weights_sha256"] in scan.text


def test_every_tensor_has_a_row_and_a_labelled_histogram(text, trained):
    scan = Scan(text)
    names = [entry.name for entry in Reader((trained / "model.mtq").read_bytes()).header.tensors]
    assert len(names) == 10
    for name in names:
        assert scan.words.count(name) == 2
        assert any(label.startswith(f"Weights of {name}:") for label in scan.labels)
    assert len(scan.labels) == 13


def test_same_run_same_bytes(text, folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == text


def test_all_kinds_of_tensors(folder):
    generator = torch.Generator().manual_seed(0)
    table = TableCodebook.around_zero(torch.arange(-100.0, 101.0))
    many = torch.randint(-100, 101, (40, 30), generator=generator, dtype=torch.int32)
    tensors = {
        "<tricky> & 'quoted'": CodedTensor(many, table, torch.float32),
        "half": CodedTensor(torch.ones(5, 1, dtype=torch.int32), UniformCodebook(0.5), torch.bfloat16),
        "one": CodedTensor(torch.zeros(1, dtype=torch.int32), UniformCodebook(1.0), torch.float32),
        "empty": CodedTensor(torch.zeros(0, 3, dtype=torch.int32), UniformCodebook(1.0), torch.float32),
        "count": CodedTensor(torch.tensor(7, dtype=torch.int32), IntegerCodebook(), torch.int64),
        "kept": torch.randn(3, generator=generator),
        "tied": Alias("kept"),
    }
    before = {name: tensor.decompress() for name, tensor in tensors.items() if isinstance(tensor, CodedTensor)}
    replace_model(folder, tensors, before)
    text = write_report(folder).read_text(encoding="utf-8")
    scan = Scan(text)
    assert "<tricky>" not in text
    assert "&amp;amp;" not in text
    assert sum(label.startswith("Weights of") for label in scan.labels) == 3
    for name in tensors:
        assert name in scan.words


def test_of_too_many_tensors_the_largest_are_drawn(folder, monkeypatch):
    monkeypatch.setattr(page, "MOST_HISTOGRAMS", 3)
    scan = Scan(write_report(folder).read_text(encoding="utf-8"))
    drawn = [label.split(":")[0] for label in scan.labels if label.startswith("Weights")]
    assert drawn == ["Weights of conv2.weight", "Weights of fc1.weight", "Weights of fc2.weight"]
    assert "the 7 smallest tensors are not drawn" in scan.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_losses_that_no_logarithmic_axis_shows_leave_gaps(bad):
    epochs = [{"stage": stage, "loss": bad, "validation_loss": bad} for stage in ("float", "compress")]
    assert plots.loss_curves(epochs).startswith("<svg")


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a run's folder, found none"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "float.safetensors", "model.mtq", "result.json"])
def test_missing_or_foreign_file(folder, name):
    (folder / name).write_bytes(b"\xff\x00 not what a run writes")
    with pytest.raises(MetaqError, match=f"{name}.*: expected .*, found "):
        write_report(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected "):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_result_without_a_key(folder):
    (folder / "result.json").write_text('{"recipe": "x"}')
    with pytest.raises(FormatError, match=r"result.json: expected the key 'float32_bytes', found none"):
        write_report(folder)


def test_epoch_that_metrics_do_not_have(folder):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": 9}))
    with pytest.raises(
        FormatError, match=r"metrics.jsonl, epoch 9 of stage compress: expected one line .*, found 0 lines"
    ):
        write_report(folder)


def test_float_network_of_another_shape(folder):
    state = safetensors.torch.load_file(folder / "float.safetensors")
    safetensors.torch.save_file(state | {"fc1.bias": torch.zeros(3)}, folder / "float.safetensors")
    with pytest.raises(FormatError, match=r"tensor 'fc1.bias': expected shape \[120\] as in model.mtq, found \[3\]"):
        write_report(folder)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_missing_extra_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "metaq.report.drawing")
    monkeypatch.delitem(sys.modules, "metaq.report.plots")
    monkeypatch.delitem(sys.modules, "metaq.report.page")
    monkeypatch.delitem(sys.modules, "metaq.report.html")
    monkeypatch.delattr("metaq.report.plots", raising=False)
    with pytest.raises(InputError, match=rf"'{module}', found none; pip install 'metaq-nn\[train\]'"):
        importlib.import_module("metaq.report.page")
