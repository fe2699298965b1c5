"""Folders for `AutoModel.from_pretrained`: what is beside the weights, and what is refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch

import metaq
from metaq.checkpoints import CompressionConfig, FolderKind, compress_path, decompress_path
from metaq.checkpoints.model_card import Facts, write_card
from metaq.errors import InputError

SAFETENSORS = FolderKind.SAFETENSORS


@pytest.fixture
def folder(tmp_path):
    """Two shards with an index, a configuration without a dtype, and a tokenizer's file."""
    path = tmp_path / "model"
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    places = {}
    for number in (1, 2):
        state = {
            f"layer{number}.{index}": torch.randn(40, 30, generator=generator).half().contiguous() for index in range(5)
        }
        shard = f"model-0000{number}-of-00002.safetensors"
        safetensors.torch.save_file(state, path / shard, {"format": "pt"})
        places |= dict.fromkeys(state, shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (path / "vocab.txt").write_text("a\n")
    return path


def sizes(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def weight_map(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_what_a_folder_has(folder, tmp_path):
    report = compress_path(folder, tmp_path / "small", CompressionConfig(bits=4), kind=SAFETENSORS)
    small = tmp_path / "small"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    others = {"README.md", "config.json", "vocab.txt", "model.safetensors.index.json"}
    assert {path.name for path in small.iterdir()} == {*shards, *others}
    assert report.file_bytes == sizes(small)
    index = json.loads((small / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sizes(small)}
    assert index["weight_map"]["layer2.0"] == index["weight_map"]["metaq.payload.1"] == shards[1]
    assert json.loads((small / "config.json").read_text()) == {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "quantization_config": {"quant_method": "metaq", "version": 1},
        "dtype": "float16",
    }
    card = (small / "README.md").read_text()
    assert f"{report.file_bytes:,} bytes; {report.source_bytes:,} bytes of weights before" in card
    assert f"{report.relative_squared_error:.2e}" in card
    assert 'BertModel.from_pretrained("small")' in card


def test_the_same_weights_as_in_mtq_files(folder, tmp_path):
    compress_path(folder, tmp_path / "small", CompressionConfig(bits=4), kind=SAFETENSORS)
    compress_path(folder, tmp_path / "mtq", CompressionConfig(bits=4))
    expected = metaq.from_pretrained(tmp_path / "mtq")
    found = metaq.from_pretrained(tmp_path / "small")
    assert list(found) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    decompress_path(tmp_path / "mtq", tmp_path / "floats")
    decompress_path(tmp_path / "small", tmp_path / "back")
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert names == {path.name for path in (tmp_path / "floats").iterdir()} | {"README.md"}
    for path in (tmp_path / "floats").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes()
    back, was = (
        json.loads((place / "model.safetensors.index.json").read_text()) for place in (tmp_path / "back", folder)
    )
    assert back["weight_map"] == was["weight_map"]


def test_the_size_is_that_of_all_files(folder, tmp_path):
    compress_path(folder, tmp_path / "small", CompressionConfig(size_bytes=9000), kind=SAFETENSORS)
    assert 8700 < sizes(tmp_path / "small") <= 9000
    with pytest.raises(InputError, match=r"size_bytes: expected more than the [0-9]+ that names take, found 1000"):
        compress_path(folder, tmp_path / "none", CompressionConfig(size_bytes=1000), kind=SAFETENSORS)


def test_going_on(folder, tmp_path, monkeypatch):
    """A run that is stopped while shards are wrapped goes on with those that are there."""
    from metaq.checkpoints import model_folder

    def stop(*arguments):
        raise KeyboardInterrupt

    config = CompressionConfig(bits=4)
    monkeypatch.setattr(model_folder, "write_card", stop)
    with pytest.raises(KeyboardInterrupt):
        compress_path(folder, tmp_path / "small", config, kind=SAFETENSORS)
    monkeypatch.undo()
    assert not (tmp_path / "small").exists()
    with pytest.raises(InputError, match="found 'kind'"):
        compress_path(folder, tmp_path / "small", config, resume=True)
    compress_path(folder, tmp_path / "small", config, kind=SAFETENSORS, resume=True)
    compress_path(folder, tmp_path / "other", config, kind=SAFETENSORS)
    for path in (tmp_path / "other").glob("*.*"):
        if path.name != "README.md":
            assert path.read_bytes() == (tmp_path / "small" / path.name).read_bytes()


def write_config(folder, text):
    (folder / "config.json").write_text(text)


BAD = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "found no such file"),
    "no JSON": (lambda folder: write_config(folder, "{"), "expected JSON"),
    "no object": (lambda folder: write_config(folder, "[]"), "expected an object with a 'model_type'"),
    "no model_type": (lambda folder: write_config(folder, "{}"), "expected an object with a 'model_type'"),
    "unknown model_type": (
        lambda folder: write_config(folder, '{"model_type": "bertt"}'),
        r"expected a model_type that transformers .* knows, found 'bertt'; did you mean 'bert'\?",
    ),
    "another method": (
        lambda folder: write_config(folder, '{"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}'),
        "found quantization by gptq",
    ),
    "odd quantization": (
        lambda folder: write_config(folder, '{"model_type": "bert", "quantization_config": [1]}'),
        "expected an object in 'quantization_config', found another value",
    ),
}


@pytest.mark.parametrize(("harm", "message"), BAD.values(), ids=BAD.keys())
def test_configurations_that_are_refused(folder, tmp_path, harm, message):
    harm(folder)
    with pytest.raises(InputError, match=message) as failure:
        compress_path(folder, tmp_path / "small", CompressionConfig(bits=4), kind=SAFETENSORS)
    assert "\n" not in str(failure.value)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_code_of_its_own(folder, tmp_path):
    write_config(folder, '{"model_type": "mine", "auto_map": {"AutoModel": "code.Mine"}}')
    compress_path(folder, tmp_path / "small", CompressionConfig(bits=4), kind=SAFETENSORS)


def test_places_and_sources_that_are_refused(folder, tmp_path):
    config = CompressionConfig(bits=4)
    compress_path(folder, tmp_path / "small", config, kind=SAFETENSORS)
    for kind in FolderKind:
        with pytest.raises(InputError, match=r"expected weights that are not compressed yet, found \.mtq files"):
            compress_path(tmp_path / "small", tmp_path / "none", config, kind=kind)
    with pytest.raises(InputError, match="--force replaces it"):
        compress_path(folder, tmp_path / "small", config, kind=SAFETENSORS)
    compress_path(folder, tmp_path / "small", config, kind=SAFETENSORS, force=True)
    shutil.copytree(folder, tmp_path / "floats")
    with pytest.raises(InputError, match="or one that metaq made, found one of other weights"):
        compress_path(folder, tmp_path / "floats", config, kind=SAFETENSORS, force=True)
    (folder / "model-00001-of-00002.safetensors").rename(tmp_path / "one.safetensors")
    with pytest.raises(InputError, match="expected a folder of shards to write as safetensors, found a file"):
        compress_path(tmp_path / "one.safetensors", tmp_path / "none", config, kind=SAFETENSORS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "---\nlibrary_name: transformers\ntags:\n- metaq\n---\n\n# m, "),
        ("# A model\n", "---\nlibrary_name: transformers\ntags:\n- metaq\n---\n\n# m, "),
        (
            "---\nlicense: mit\nbase_model: a/b\ntags: [x]\n---\nbody\n",
            "---\nlicense: mit\nbase_model: a/b\ntags: [x]\nlibrary_name: transformers\n"
            "base_model_relation: quantized\n---\n",
        ),
        (
            "---\r\nlibrary_name: peft\r\ntags:\r\n- metaq\r\n---\r\nbody\n",
            "---\nlibrary_name: peft\ntags:\n- metaq\n---\n",
        ),
        (
            "---\nlibrary_name: peft\ntags:\n  - x\nlicense: mit\n---\nbody\n",
            "---\nlibrary_name: peft\ntags:\n  - metaq\n  - x\nlicense: mit\n---\n",
        ),
    ],
)
def test_cards_keep_what_the_source_said(tmp_path, source, expected):
    write_card(tmp_path, Facts(100, 1000, 250), {}, "m", source)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith(expected)
    assert "| bits per weight | 3.20," in card
    assert "relative squared error" not in card
    assert card.endswith(source.rpartition("---")[2].lstrip() if source else "`transformers`.\n")
