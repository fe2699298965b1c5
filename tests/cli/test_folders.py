"""Commands on folders of shards: what `inspect`, `verify` and `compare` say of them."""

import json

import pytest
import safetensors.torch
import torch

import metaq
from metaq.io.payload import Reference


@pytest.fixture
def compressed(succeeds, folder, tmp_path):
    """A folder of two .mtq shards."""
    succeeds("compress", folder, "-o", tmp_path / "small", "--step", "0.25", "-q")
    return tmp_path / "small"


def test_inspect_of_a_folder(succeeds, compressed):
    found = json.loads(succeeds("inspect", compressed, "--json"))
    sizes = [(compressed / f"{shard}.mtq").stat().st_size for shard in (1, 2)]
    assert [file["file"] for file in found["files"]] == ["1.mtq", "2.mtq"]
    assert [file["file_bytes"] for file in found["files"]] == sizes
    assert [row["tensor"] for row in found["files"][1]["tensors"]] == ["2.bias", "2.weight"]
    assert (found["shards"], found["tensors"], found["weights"]) == (2, 4, 2 * 2003)
    assert found["file_bytes"] == sum(sizes)
    assert found["file_bits_per_weight"] == 8 * sum(sizes) / (2 * 2003)
    printed = succeeds("inspect", compressed)
    assert "1.mtq" in printed
    assert f"{sum(sizes):,}" in printed


def test_verify_of_a_folder(succeeds, fails, compressed):
    found = json.loads(succeeds("verify", compressed, "--json"))
    for row in found["files"]:
        alone = json.loads(succeeds("verify", compressed / row["file"], "--json"))
        assert row | {"file": str(compressed / row["file"])} == alone
    assert (found["verdict"], found["shards"], found["tensors"]) == ("whole and unchanged", 2, 4)
    assert "2.mtq" in succeeds("verify", compressed)
    data = bytearray((compressed / "2.mtq").read_bytes())
    data[-6] ^= 1
    (compressed / "2.mtq").write_bytes(data)
    assert "2.mtq: expected chunk" in fails("verify", compressed)
    (compressed / "2.mtq").unlink()
    assert "expected the shard '2.mtq' beside it" in fails("verify", compressed)


def test_compare_of_folders(succeeds, fails, folder, compressed, tmp_path):
    found = json.loads(succeeds("compare", folder, compressed, "--json"))
    assert {row["tensor"] for row in found["tensors"]} == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert found["first_bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert found["second_bytes"] == sum(path.stat().st_size for path in compressed.glob("*.mtq"))
    one = {name: tensor for shard in (1, 2) for name, tensor in metaq.load_file(compressed / f"{shard}.mtq").items()}
    safetensors.torch.save_file(one, tmp_path / "one.safetensors")
    again = json.loads(succeeds("compare", folder, tmp_path / "one.safetensors", "--json"))
    assert again["relative_squared_error"] == found["relative_squared_error"] > 0
    same = json.loads(succeeds("compare", compressed, tmp_path / "one.safetensors", "--json"))
    assert same["tensors_that_differ"] == 0
    (compressed / "model.mtq.index.json").unlink()
    (compressed / "copy.mtq").write_bytes((compressed / "1.mtq").read_bytes())
    twice = "expected tensor '1.bias' in one file, found it in 1.mtq and copy.mtq"
    assert twice in fails("compare", folder, compressed)


def test_compare_sorts(succeeds, folder, compressed):
    def rows(*options):
        return json.loads(succeeds("compare", folder, compressed, "--json", *options))["tensors"]

    shares = [row["squared_error_share"] for row in rows()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert rows("--top", "2") == rows()[:2]
    assert [row["tensor"] for row in rows("--sort", "tensor")] == ["1.bias", "1.weight", "2.bias", "2.weight"]
    sizes = [row["second_bytes"] for row in rows("--sort", "second_bytes")]
    assert sizes == sorted(sizes, reverse=True)
    assert "2.bias" not in succeeds("compare", folder, compressed, "--top", "2")


def test_folders_for_transformers(succeeds, fails, folder, compressed, tmp_path):
    command = ("compress", folder, "-o", tmp_path / "wrapped", "--step", "0.25", "--as", "safetensors", "--json")
    assert "config.json: expected an object with a 'model_type'" in fails(*command)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    found = json.loads(succeeds(*command))
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "wrapped").glob("*.safetensors"))
    tensors = metaq.from_pretrained(tmp_path / "wrapped")
    stored = metaq.from_pretrained(compressed)
    assert list(tensors) == list(stored)
    assert all(tensor.equal(stored[name]) for name, tensor in tensors.items())
    assert (tmp_path / "wrapped" / "README.md").is_file()
    assert "--force replaces it" in fails(*command)
    succeeds(*command, "--force")
    succeeds("decompress", tmp_path / "wrapped", "-o", tmp_path / "back", "-q")
    assert (tmp_path / "back" / "config.json").is_file()


@pytest.fixture
def wrapped(succeeds, folder, compressed, tmp_path):
    """The folder of two .mtq shards as one that transformers loads."""
    (folder / "config.json").write_text('{"model_type": "bert"}')
    succeeds("compress", folder, "-o", tmp_path / "wrapped", "--step", "0.25", "--as", "safetensors", "-q")
    return tmp_path / "wrapped"


def rewritten(path, **changed):
    """Write a .safetensors file anew, with other tensors."""
    tensors = safetensors.torch.load(path.read_bytes())
    safetensors.torch.save_file({**tensors, **changed}, path, {"format": "pt"})


def test_inspect_of_what_transformers_loads(succeeds, compressed, wrapped):
    found, expected = (json.loads(succeeds("inspect", place, "--json")) for place in (wrapped, compressed))
    assert [file["file"] for file in found["files"]] == ["1.safetensors", "2.safetensors"]
    for one, other in zip(found["files"], expected["files"], strict=True):
        assert one | {"file": other["file"]} == other
    sizes = sum(path.stat().st_size for path in wrapped.glob("*.safetensors"))
    assert found["file_bytes"] == sizes
    assert found["wrapping_bytes"] == sizes - expected["file_bytes"] > 0
    assert (found["plain_tensors"], found["plain_bytes"]) == (0, 0)
    assert (found["shards"], found["tensors"], found["weights"]) == (2, 4, 2 * 2003)
    assert "1.safetensors" in succeeds("inspect", wrapped)


def test_verify_of_what_transformers_loads(succeeds, fails, compressed, wrapped):
    found, expected = (json.loads(succeeds("verify", place, "--json")) for place in (wrapped, compressed))
    hashes = [[row["weights_sha256"] for row in result["files"]] for result in (found, expected)]
    assert hashes[0] == hashes[1]
    assert (found["verdict"], found["shards"], found["tensors"]) == ("whole and unchanged", 2, 4)
    rewritten(wrapped / "1.safetensors", **{"1.bias": torch.ones(3)})
    found = json.loads(succeeds("verify", wrapped, "--json"))
    assert found["verdict"] == "whole and unchanged, but for plain tensors, which have no checksum"
    assert (found["plain_tensors"], found["plain_bytes"]) == (1, 12)
    lost = torch.from_numpy(Reference(1, 2).octets().copy())
    rewritten(wrapped / "1.safetensors", **{"1.bias": lost})
    assert "tensor '1.bias': expected a reference to one of 2, found one to tensor 2" in fails("verify", wrapped)
    data = bytearray((wrapped / "2.safetensors").read_bytes())
    data[-6] ^= 1
    (wrapped / "2.safetensors").write_bytes(data)
    rewritten(wrapped / "1.safetensors", **{"1.bias": torch.ones(3)})
    assert "2.safetensors, metaq.payload.1: expected chunk" in fails("verify", wrapped, "-q")
    (wrapped / "2.safetensors").unlink()
    assert "expected the shard '2.safetensors' beside it" in fails("verify", wrapped)


def test_compare_of_what_transformers_loads(succeeds, folder, compressed, wrapped):
    found, expected = (json.loads(succeeds("compare", folder, place, "--json")) for place in (wrapped, compressed))
    assert found["tensors"] == expected["tensors"]
    assert found["relative_squared_error"] == expected["relative_squared_error"]
    assert found["second_bytes"] == sum(path.stat().st_size for path in wrapped.glob("*.safetensors"))
    rewritten(wrapped / "1.safetensors", **{"1.bias": torch.ones(3)})
    changed = json.loads(succeeds("compare", compressed, wrapped, "--json"))
    assert changed["tensors_that_differ"] == 0
    assert [row["second_bytes"] for row in changed["tensors"] if row["tensor"] == "1.bias"] == [12]


def test_several_payloads_in_one_file(succeeds, wrapped):
    second = safetensors.torch.load((wrapped / "2.safetensors").read_bytes())
    rewritten(wrapped / "1.safetensors", **second)
    (wrapped / "2.safetensors").unlink()
    (wrapped / "model.safetensors.index.json").unlink()
    found = json.loads(succeeds("verify", wrapped, "--json"))
    names = ["1.safetensors, metaq.payload.0", "1.safetensors, metaq.payload.1"]
    assert sorted(row["file"] for row in found["files"]) == names
    assert found["tensors"] == 4


def test_folders_without_any(fails, folder):
    for verb in ("inspect", "verify"):
        assert "expected a folder with *.mtq files, or with *.safetensors files that" in fails(verb, folder)
