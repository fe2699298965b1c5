"""`metaq compress FOLDER --calibrate DATA` with folders as transformers writes them, and what it refuses."""

import json
import sys

import pytest
import torch
from safetensors import safe_open

import metaq
from metaq import integrations
from metaq.checkpoints import CompressionConfig, FolderKind, compress_path
from metaq.cli import calibration

transformers = pytest.importorskip("transformers")
pytest.importorskip("PIL")

import hugging_face_folders as folders  # noqa: E402

import metaq.integrations.transformers  # noqa: E402 - makes the quantizer known
from metaq.integrations.folder_models import quiet  # noqa: E402

MODELS = {
    "bert": folders.bert,
    "bert-bfloat16": lambda path: folders.bert(path, "BertModel", torch.bfloat16),
    "gpt2": folders.gpt2,
    "gpt2-base": lambda path: folders.gpt2(path, is_base=True),
    "llama": folders.llama,
    "mixtral": folders.mixtral,
    "vit": folders.vit,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, and data for them."""
    path = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        make(path / name)
    compress_path(path / "bert", path / "wrapped", CompressionConfig(bits=8), kind=FolderKind.SAFETENSORS)
    (path / "x.txt").write_text("\n".join(folders.texts(80)))
    (path / "x.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in folders.texts(80)))
    folders.images(path / "images", 8)
    return path


@pytest.fixture
def nothing_left(tmp_path):
    """Checks that a command that failed has left nothing."""
    yield
    assert not list(tmp_path.glob("small*"))


def data_of(model):
    return "images" if model == "vit" else "x.jsonl" if model == "gpt2" else "x.txt"


def tensors(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return found


@pytest.mark.parametrize("model", MODELS)
def test_there_and_back(command, succeeds, place, tmp_path, model):
    source, small, back = place / model, tmp_path / "small", tmp_path / "back"
    options = ("--calibrate", place / data_of(model), "--samples", "20", "--json")
    options += () if model == "vit" else ("--window", "16")
    code, output, errors = command("compress", source, "-o", small, *options)
    assert code == 0
    assert "cls_token" in errors if model == "vit" else not errors
    report = json.loads(output)
    found = {name: tensor for path in small.glob("*.mtq") for name, tensor in metaq.load_file(path).items()}
    was = tensors(source)
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {n: (t.dtype, t.shape) for n, t in was.items()}
    assert report["tensors"] == len(was)
    assert report["bytes"] == sum(path.stat().st_size for path in small.glob("*.mtq"))
    assert report["bits_per_weight"] <= 4
    others = [path for path in source.iterdir() if "safetensors" not in path.name]
    assert all((small / path.name).read_bytes() == path.read_bytes() for path in others)
    shards = sorted(path.stem for path in small.glob("*.mtq"))
    assert shards == sorted(path.stem for path in source.glob("*.safetensors"))
    succeeds("decompress", small, "-o", back, "-q")
    kind = getattr(transformers, json.loads((source / "config.json").read_text())["architectures"][0])
    with quiet():
        loaded, info = kind.from_pretrained(back, output_loading_info=True, dtype="auto")
        loaded.save_pretrained(tmp_path / "again")
    assert not any(info.values())
    prefix = "transformer." if model == "gpt2-base" else ""
    again = tensors(tmp_path / "again")
    assert again.keys() == {prefix + name for name in found}
    assert all(torch.equal(again[prefix + name], tensor) for name, tensor in found.items())


def test_as_the_quantizer_says(succeeds, place, tmp_path):
    from metaq.checkpoints.calibrated import compress_calibrated
    from metaq.integrations.calibration_data import load

    options = ("--samples", "9", "--window", "16", "--bits", "3", "--coder", "rans", "-q")
    succeeds("compress", place / "gpt2", "-o", tmp_path / "small", "--calibrate", place / "x.txt", *options)
    model, batches = load(place / "gpt2", place / "x.txt", samples=9, window=16)
    expected = compress_calibrated(model, batches, metaq.CompressionConfig(bits=3, coder="rans")).decompress()
    found = metaq.load_file(tmp_path / "small" / "model.mtq")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_refitting(succeeds, place, tmp_path):
    options = ("--samples", "40", "--window", "8", "--bits", "2", "-q")
    for name, more in (("plain", ("--refit", "0")), ("refitted", ("--refit", "1"))):
        output = tmp_path / name
        succeeds("compress", place / "gpt2", "-o", output, "--calibrate", place / "x.txt", *options, *more)
    assert metaq.load_file(tmp_path / "refitted" / "model.mtq").keys() == tensors(place / "gpt2").keys()


def test_without_data_a_line_says_what_it_is_worth(command, place, folder, tmp_path):
    code, _, errors = command("compress", place / "bert", "-o", tmp_path / "a", "--json")
    assert (code, errors.count("\n")) == (0, 1)
    assert errors == f"metaq: {place / 'bert'}: compressed without data; {calibration._WORTH}\n"
    assert command("compress", place / "bert", "-o", tmp_path / "b", "-q")[2] == ""
    assert command("compress", place / "bert", "-o", tmp_path / "c", "--lossless")[2] == ""
    assert command("compress", folder, "-o", tmp_path / "d")[2] == ""


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "bert",
            ("--calibrate", "x.txt", "--lossless"),
            "--calibrate: expected --bits, --size, --max-error or --quality",
        ),
        ("bert", ("--calibrate", "x.txt", "--step", "0.1"), "beside it, found --step, where data has no say"),
        (
            "bert",
            ("--calibrate", "x.txt", "--resume"),
            "expected no --resume beside it, found it; a stopped run leaves",
        ),
        ("bert", ("--samples", "4"), "--samples: expected --calibrate DATA beside it, found none"),
        ("bert", ("--window", "4"), "--window: expected --calibrate DATA beside it, found none"),
        ("bert", ("--refit", "4"), "--refit: expected --calibrate DATA beside it, found none"),
        ("bert", ("--calibrate", "x.txt", "--refit", "-1"), "--refit"),
        (
            "bert/model.safetensors",
            ("--calibrate", "x.txt"),
            "the code of the model is needed, found a file; in Python",
        ),
        ("none", ("--calibrate", "x.txt"), "expected a Hugging Face folder for --calibrate"),
        ("vit", ("--calibrate", "x.txt"), "expected a tokenizer"),
        ("bert", ("--calibrate", "none.txt"), "found no such file or folder"),
        ("gpt2", ("--calibrate", "x.txt", "--window", "65"), "expected at most the 64 tokens that the model takes"),
        ("images", ("--calibrate", "x.txt"), "'*.safetensors', found none"),
        ("wrapped", ("--calibrate", "x.txt"), "expected weights that are not compressed yet, found .mtq files"),
        ("images", ("--calibrate", "x.txt", "--as", "safetensors"), "'*.safetensors', found none"),
    ],
)
def test_refused(fails, place, tmp_path, source, options, message):
    options = [place / option if option.endswith(".txt") else option for option in options]
    assert message in fails("compress", place / source, "-o", tmp_path / "small", *options)


@pytest.mark.usefixtures("nothing_left")
def test_without_transformers(fails, place, tmp_path, monkeypatch):
    for name in ("calibration_data", "calibration_text", "folder_models"):
        monkeypatch.delitem(sys.modules, f"metaq.integrations.{name}", raising=False)
        monkeypatch.delattr(integrations, name, raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = fails("compress", place / "bert", "-o", tmp_path / "small", "--calibrate", place / "x.txt")
    assert message == "metaq: metaq compress needs transformers: pip install 'metaq-nn[transformers]'\n"


@pytest.mark.parametrize("model", ["bert-bfloat16", "llama", "mixtral"])
def test_folders_for_transformers(succeeds, place, tmp_path, model):
    options = ("--calibrate", place / "x.txt", "--samples", "20", "--window", "16", "--json")
    for name, kind in (("mtq", "mtq"), ("small", "safetensors")):
        report = json.loads(succeeds("compress", place / model, "-o", tmp_path / name, "--as", kind, *options))
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "small").glob("*.safetensors"))
    assert (tmp_path / "small" / "README.md").is_file()
    found = metaq.from_pretrained(tmp_path / "small")
    expected = metaq.from_pretrained(tmp_path / "mtq")
    assert found.keys() == expected.keys() == tensors(place / model).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    succeeds("decompress", tmp_path / "mtq", "-o", tmp_path / "floats", "-q")
    kind = getattr(transformers, json.loads((place / model / "config.json").read_text())["architectures"][0])
    with quiet():
        loaded, info = kind.from_pretrained(tmp_path / "small", output_loading_info=True)
        floats = kind.from_pretrained(tmp_path / "floats").state_dict()
    assert not any(info.values())
    assert loaded.state_dict().keys() == floats.keys()
    assert all(torch.equal(floats[name], tensor) for name, tensor in loaded.state_dict().items())


def test_the_size_of_a_folder_for_transformers(succeeds, place, tmp_path):
    options = ("--calibrate", place / "x.txt", "--samples", "9", "--window", "16", "--size", "40kB", "-q")
    succeeds("compress", place / "bert", "-o", tmp_path / "small", "--as", "safetensors", *options)
    size = sum(path.stat().st_size for path in (tmp_path / "small").glob("*.safetensors"))
    assert 0.9 * 40_000 < size <= 40_000
