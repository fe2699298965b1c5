"""CIFAR-10 in both forms, from archives made here in their layouts."""

import hashlib
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from metaq.errors import DataError
from metaq.experiments import data
from metaq.experiments.data import cifar10, cifar10_jpeg
from metaq.experiments.data.files import PublishedFile

MEAN, DEVIATION = torch.tensor(cifar10._MEAN), torch.tensor(cifar10._DEVIATION)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METAQ_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def records(count, seed):
    generator = np.random.default_rng(seed)
    table = generator.integers(0, 256, (count, 3073), dtype=np.uint8)
    table[:, 0] = np.arange(count) % 10
    return table


def test_the_published_form(folder, monkeypatch):
    buffer = io.BytesIO()
    batches = {f"data_batch_{i}.bin": records(10, i) for i in range(1, 6)} | {"test_batch.bin": records(7, 6)}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, table in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = table.nbytes
            archive.addfile(info, io.BytesIO(table.tobytes()))
    (folder / "cifar10").mkdir()
    (folder / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="SHA-256 c4a38c50"):
        data.by_name("cifar10")(5)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    monkeypatch.setattr(cifar10, "_ARCHIVE", PublishedFile("cifar-10-binary.tar.gz", sha256, len(buffer.getvalue())))
    dataset = data.by_name("cifar10")(5)
    assert list(map(len, (dataset.train, dataset.validation, dataset.test))) == [45, 5, 7]
    assert dataset.test.labels.tolist() == list(range(7))
    pixels = (dataset.test.inputs.permute(0, 2, 3, 1) * DEVIATION + MEAN) * 255
    expected = batches["test_batch.bin"][:, 1:].reshape(7, 3, 32, 32)
    assert np.array_equal(pixels.permute(0, 3, 1, 2).round().numpy().astype(np.uint8), expected)


def jpeg(colour, size=32):
    image = pytest.importorskip("PIL.Image").new("RGB", (size, size), colour)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def write_zips(folder, members, monkeypatch):
    """Both archives, which are taken for the published ones."""
    (folder / "cifar10-jpeg").mkdir()
    for name, constant in (("train.zip", "_TRAIN"), ("test.zip", "_TEST")):
        path = folder / "cifar10-jpeg" / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(cifar10_jpeg, constant, PublishedFile(name, sha256, path.stat().st_size))


def test_the_jpeg_copy(folder, monkeypatch):
    colours = {"truck/1.jpg": (0, 0, 255), "airplane/0.jpg": (255, 0, 0), "airplane/7.jpg": (128, 128, 128)}
    write_zips(folder, {name: jpeg(colour) for name, colour in colours.items()}, monkeypatch)
    test = data.by_name("cifar10-jpeg")(1).test
    assert test.labels.tolist() == [0, 0, 9]
    pixels = (test.inputs.mean(dim=(2, 3)) * DEVIATION + MEAN) * 255
    expected = torch.tensor([(255.0, 0.0, 0.0), (128.0, 128.0, 128.0), (0.0, 0.0, 255.0)])
    assert float((pixels - expected).abs().max()) < 3


def test_other_zips_are_refused(folder):
    with pytest.raises(DataError, match=r"cifar10-jpeg: expected train\.zip at .*, found none; put the file there"):
        data.by_name("cifar10-jpeg")(1)
    (folder / "cifar10-jpeg").mkdir()
    (folder / "cifar10-jpeg" / "train.zip").write_bytes(b"another")
    with pytest.raises(DataError, match="expected content of SHA-256 4fdb7b09"):
        data.by_name("cifar10-jpeg")(1)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.exists(os.path.join(os.environ.get("METAQ_DATA", ""), "cifar10-jpeg")), reason="needs the JPEG copy"
)
def test_the_whole_jpeg_copy():
    dataset = data.by_name("cifar10-jpeg")(5000)
    assert list(map(len, (dataset.train, dataset.validation, dataset.test))) == [45_000, 5000, 10_000]
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
