"""Commands on folders of shards: what `inspect`, `verify` and `compare` say of them."""

import json

import pytest
import safetensors.torch

import metaq


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
    assert "expected the shard 2.mtq beside it" in fails("verify", compressed)


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
