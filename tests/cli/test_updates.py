"""`metaq delta` and `metaq apply`; what `inspect` and `verify` say of a difference."""

import json

import pytest
import torch

import metaq


@pytest.fixture
def checkpoints(tmp_path):
    base = {"a.weight": torch.randn(90, 80).bfloat16(), "b": torch.zeros(5), "gone": torch.ones(2)}
    new = {"a.weight": base["a.weight"].clone(), "c": base["b"]}
    new["a.weight"][3] *= 1.01
    torch.save(base, tmp_path / "base.pt")
    torch.save(new, tmp_path / "new.pt")
    return tmp_path, new


def test_there_and_back(succeeds, checkpoints):
    path, new = checkpoints
    report = json.loads(succeeds("delta", path / "base.pt", path / "new.pt", "-o", path / "update.mtq", "--json"))
    assert report["file_bytes"] == (path / "update.mtq").stat().st_size
    assert succeeds("apply", path / "base.pt", path / "update.mtq", "-o", path / "made.pt") == ""
    assert metaq.checksum(torch.load(path / "made.pt")) == metaq.checksum(new)
    succeeds("apply", path / "base.pt", path / "update.mtq", "--in-place")
    assert metaq.checksum(torch.load(path / "base.pt")) == metaq.checksum(new)


def test_state_dicts_among_others(succeeds, fails, checkpoints):
    """Keys say which; a file with more in it than a state dict is not replaced."""
    path, new = checkpoints
    base = torch.load(path / "base.pt")
    torch.save({"net": base, "average": new}, path / "several.pt")
    places = ("delta", path / "several.pt", path / "several.pt", "-o", path / "update.mtq", "-q")
    assert "say which with --base-key NAME" in fails(*places)
    assert "say which with --key NAME" in fails(*places, "--base-key", "net")
    succeeds(*places, "--base-key", "net", "--key", "average")
    apply = ("apply", path / "several.pt", path / "update.mtq", "--base-key", "net")
    assert "expected nothing but a state dict in a file to replace, found more" in fails(*apply, "--in-place")
    succeeds(*apply, "-o", path / "made.pt")
    assert metaq.checksum(torch.load(path / "made.pt")) == metaq.checksum(new)
    fold = ("fold", path / "several.pt", path / "update.mtq", "-o", path / "both.mtq", "--base-key", "net", "-q")
    succeeds(*fold)
    succeeds("apply", path / "base.pt", path / "both.mtq", "-o", path / "made.pt", "--force")
    assert metaq.checksum(torch.load(path / "made.pt")) == metaq.checksum(new)
    expected = "update.mtq: expected no key for a .mtq file"
    assert expected in fails("delta", path / "update.mtq", path / "new.pt", "--base-key", "x", "-o", path / "x.mtq")


def test_inspect_and_verify(succeeds, fails, checkpoints):
    path, new = checkpoints
    base = metaq.checksum(torch.load(path / "base.pt"))
    succeeds("delta", path / "base.pt", path / "new.pt", "-o", path / "update.mtq", "-q")
    found = json.loads(succeeds("inspect", path / "update.mtq", "--json"))
    rows = {row["tensor"]: row for row in found["tensors"]}
    changed = int((new["a.weight"] != torch.load(path / "base.pt")["a.weight"]).sum())
    assert rows["a.weight"]["kind"] == "changed"
    assert rows["a.weight"]["changed_share"] == pytest.approx(changed / 7200)
    assert 0 < rows["a.weight"]["bytes"] < 200
    assert (rows["c"]["kind"], rows["c"]["shape"], rows["c"]["bytes"]) == ("equal from b", [5], 0)
    assert rows["gone"]["kind"] == "removed"
    assert found["difference_from"] == base
    assert json.loads(succeeds("verify", path / "update.mtq", "--json"))["difference_from"] == base
    data = bytearray((path / "update.mtq").read_bytes())
    data[-8] ^= 1
    (path / "update.mtq").write_bytes(data)
    assert "chunk 0 to match its checksum" in fails("verify", path / "update.mtq")


def test_with_loss(succeeds, fails, checkpoints):
    path, new = checkpoints
    new["a.weight"] = new["a.weight"] + 0.01 * torch.randn(90, 80).bfloat16()
    torch.save(new, path / "new.pt")
    places = (path / "base.pt", path / "new.pt", "-o", path / "update.mtq", "--json")
    report = json.loads(succeeds("delta", *places, "--max-error", "0.02"))
    assert 0.01 < report["relative_squared_error"] < 0.02
    assert 2 < report["bits_per_weight"] < 4
    assert report["file_bytes"] == (path / "update.mtq").stat().st_size
    succeeds("apply", path / "base.pt", path / "update.mtq", "-o", path / "made.pt")
    made = torch.load(path / "made.pt")
    assert set(made) == set(new)
    assert not made["a.weight"].equal(new["a.weight"])
    expected = "expected at most one of max_error, size_bytes, bits"
    assert expected in fails("delta", *places, "--force", "--bits", "1", "--size", "1kB")


def test_what_is_refused(succeeds, fails, checkpoints):
    path, _ = checkpoints
    succeeds("delta", path / "base.pt", path / "new.pt", "-o", path / "update.mtq", "-q")
    assert "either --output or --in-place, found neither" in fails("apply", path / "base.pt", path / "update.mtq")
    both = ("--in-place", "-o", path / "x.pt")
    assert "either --output or --in-place, found both" in fails("apply", path / "base.pt", path / "update.mtq", *both)
    assert "'b': expected 5 elements" in fails("apply", path / "new.pt", path / "update.mtq", "-o", path / "x.pt")
    assert not (path / "x.pt").exists()
