"""Repositories of the hub, which is a folder here, and modules of one's own."""

import fnmatch
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from torch import nn

import metaq
from metaq.checkpoints import CompressionConfig, FolderKind, compress_path
from metaq.errors import FormatError, InputError
from metaq.integrations.hub import MetaqModelMixin


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of folders below ``tmp_path / "hub"``; copies go to ``tmp_path / "cache"``."""
    asked = []

    def snapshot_download(repo_id, allow_patterns, **options):
        asked.append(options)
        source = tmp_path / "hub" / repo_id
        if not source.is_dir():
            raise errors.LocalEntryNotFoundError("offline")
        for path in source.rglob("*"):
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                (tmp_path / "cache" / repo_id).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, tmp_path / "cache" / repo_id / path.name)
        return str(tmp_path / "cache" / repo_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def cached(tmp_path):
    return {path.name for path in (tmp_path / "cache" / "me" / "small").iterdir()}


@pytest.fixture
def source(tmp_path):
    """A folder of shards, with files that nobody who wants weights needs."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save({"w": torch.randn(40, 30), "b": torch.ones(5)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "large.bin").write_bytes(bytes(1000))
    return folder


@pytest.mark.parametrize("kind", FolderKind)
def test_only_what_is_needed_is_downloaded(hub, source, tmp_path, kind):
    (tmp_path / "hub" / "me").mkdir(parents=True)
    compress_path(source, tmp_path / "hub" / "me" / "small", CompressionConfig(bits=4), kind=kind)
    found = metaq.from_pretrained("me/small", revision="v1")
    assert cached(tmp_path) == {"config.json", f"model{kind.suffix}"}
    expected = metaq.from_pretrained(tmp_path / "hub" / "me" / "small")
    assert found.keys() == expected.keys() == {"w", "b"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert all(options == {"revision": "v1"} for options in hub)


def test_a_repository_of_floats(hub, tmp_path):
    (tmp_path / "hub" / "me" / "small").mkdir(parents=True)
    (tmp_path / "hub" / "me" / "small" / "config.json").write_text("{}")
    (tmp_path / "hub" / "me" / "small" / "model.safetensors").write_bytes(bytes(10))
    with pytest.raises(InputError, match=r"small: expected one file .*, found none"):
        metaq.from_pretrained("me/small")
    assert cached(tmp_path) == {"config.json"}


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        ("me/none", {}, "found no copy of it in the cache and no way to the hub; connect"),
        ("../none", {}, "expected a folder, or a repository OWNER/NAME of the hub, found neither"),
        (Path("none"), {}, "found neither"),
        ("me/none", {"subfolder": "x"}, "expected options of revision, cache_dir, .* found 'subfolder'"),
    ],
)
def test_places_that_are_none(hub, place, options, message):
    with pytest.raises(InputError, match=message) as failure:
        metaq.from_pretrained(place, **options)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "found no folder and no repository of that name"),
        (errors.GatedRepoError, "found one that asks for access; log in"),
        (errors.RevisionNotFoundError, "found no revision 'v2' of it"),
        (errors.HFValidationError, "found an error: several lines"),
        (OSError, "found an error: several lines"),
    ],
)
def test_what_the_hub_says(monkeypatch, error, message):
    def fail(*arguments, **options):
        failure = error.__new__(error)
        failure.args = ("several\nlines",)
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=message) as failure:
        metaq.from_pretrained("me/small", revision="v2")
    assert "\n" not in str(failure.value)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'metaq-nn\[hub\]'"):
        metaq.from_pretrained("me/small")
    monkeypatch.delitem(sys.modules, "metaq.integrations.hub")
    with pytest.raises(ModuleNotFoundError, match=r"needs huggingface_hub: pip install 'metaq-nn\[hub\]'"):
        __import__("metaq.integrations.hub")


class Network(nn.Module, MetaqModelMixin):
    compression = CompressionConfig(bits=5)

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 30), nn.BatchNorm1d(30), nn.Linear(30, 4))


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def test_modules_of_ones_own(tmp_path):
    torch.manual_seed(0)
    network = Network(width=25)
    network.save_pretrained(tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"README.md", "config.json", "model.mtq"}
    assert "metaq" in (tmp_path / "a" / "README.md").read_text()
    loaded = Network.from_pretrained(tmp_path / "a")
    assert not loaded.training
    expected = metaq.compress_state_dict(network.state_dict(), CompressionConfig(bits=5)).decompress()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "model.mtq").read_bytes() == (tmp_path / "a" / "model.mtq").read_bytes()
    loaded.save_pretrained(tmp_path / "a")
    assert same(Network.from_pretrained(tmp_path / "a"), loaded)
    with torch.no_grad():
        loaded.layers[0].weight.mul_(3)
    loaded.save_pretrained(tmp_path / "b")
    assert not same(Network.from_pretrained(tmp_path / "b"), loaded)
    assert metaq.from_pretrained(tmp_path / "b").keys() == network.state_dict().keys()


def test_modules_by_way_of_the_hub(hub, tmp_path, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
            sent.update(options)

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    network = Network()
    network.push_to_hub("me/small")
    assert sent["repo_type"] == "model"
    monkeypatch.setattr(
        huggingface_hub.hub_mixin,
        "hf_hub_download",
        lambda repo_id, filename, **options: str(tmp_path / "hub" / repo_id / filename),
    )
    loaded = Network.from_pretrained("me/small", revision="v1")
    stored = metaq.load_file(tmp_path / "hub" / "me" / "small" / "model.mtq")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())


def test_modules_that_do_not_fit(tmp_path):
    Network(width=25).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tensor 'layers.0.weight' of Network: expected shape \(30, 20\)"):
        Network.from_pretrained(tmp_path, width=20)
    (tmp_path / "model.mtq").write_bytes(b"x")
    with pytest.raises(FormatError, match="which starts with"):
        Network.from_pretrained(tmp_path)

    class Other(MetaqModelMixin):
        pass

    with pytest.raises(InputError, match=r"expected a class that is a torch\.nn\.Module too, found Other"):
        Other().save_pretrained(tmp_path / "other")
