"""What a file holds and costs, and that each of its chunks is decoded once to find out."""

import pytest
import torch

import metaq
from metaq.codebook import UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel, encode
from metaq.format.reader import Reader
from metaq.metrics import digest, entropy_of_order
from metaq.progress import Progress
from metaq.report import contents


class Told(Progress):
    """What a progress was told."""

    def __init__(self):
        self.total = None
        self.read = 0

    def begin(self, what, total_bytes=None):
        self.total = total_bytes

    def advance(self, read_bytes, written_bytes):
        self.read += read_bytes


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 20, generator=generator)
    model = metaq.compress({"a.weight": weight, "a.bias": weight[0].clone(), "tied": weight}, step=0.5)
    long = torch.randint(-3, 4, (300, 1100), generator=generator, dtype=torch.int32)  # more than one chunk of adaptive
    tensors = {
        **model.tensors,
        "long": CodedTensor(long, UniformCodebook(0.25), torch.bfloat16),
        "count": torch.tensor([1 << 40, 2]),
        "steps": CodedTensor(torch.tensor([5, 5, 6]).int(), metaq.codebook.IntegerCodebook(), torch.int64),
        "nothing": CodedTensor(torch.zeros(0, 3).int(), UniformCodebook(1.0), torch.float32),
    }
    return CompressedModel(tensors, {"note": "x"})


@pytest.mark.parametrize("coder", ["mixing", "adaptive", "zstd"])
def test_one_pass_finds_everything(model, coder, monkeypatch):
    data = encode(model, coder)
    reader = Reader(data)
    decoded = []
    progress = Told()
    with monkeypatch.context() as patched:
        original = contents.blocks

        def counted(reader):
            for size, chunk in original(reader):
                decoded.append(size)
                yield size, chunk

        patched.setattr(contents, "blocks", counted)
        found = contents.inspect(reader, progress)
    payloads = [chunk.payload_bytes for chunk in reader.header.chunks]
    assert sorted(decoded) == sorted(payloads)
    assert progress.read == sum(payloads)
    rows = {row["tensor"]: row for row in found.rows}
    assert list(rows) == list(model.tensors)
    assert sum(row["bytes"] for row in found.rows) == pytest.approx(sum(payloads), abs=0.5)
    assert rows["tied"]["kind"] == "alias of a.weight"
    assert rows["tied"]["bytes"] == 0
    assert (rows["a.bias"]["kind"], rows["count"]["kind"]) == ("kept", "kept")
    assert rows["long"] | {"bits_per_weight": 0, "bytes": 0} == {
        "tensor": "long",
        "dtype": "bfloat16",
        "shape": [300, 1100],
        "kind": "coded",
        "levels": 7,
        "zeros": int((model.tensors["long"].symbols == 0).sum()),
        "zero_order_bits_per_weight": pytest.approx(2.807, abs=1e-3),
        "bits_per_weight": 0,
        "bytes": 0,
    }
    assert (rows["steps"]["levels"], rows["steps"]["zeros"], rows["nothing"]["levels"]) == (2, 0, 0)
    for order in (1, 2, 4):
        expected = pytest.approx(entropy_of_order(model, order))
        assert found.summary[f"entropy_order_{order}_bits_per_weight"] == expected
    assert found.summary["file_bytes"] == len(data)
    assert found.summary["header_and_checksum_bytes"] == len(data) - sum(payloads)
    assert coder in found.summary["coder"]
    assert found.metadata == {"note": "x"}
    sizes = contents.shared_sizes(reader)
    assert [round(size, 1) for size in sizes] == [row["bytes"] for row in found.rows]


def test_each_chunk_is_decoded_once(model):
    reader = Reader(encode(model, "adaptive"))
    contents.inspect(reader)
    assert len(reader.header.chunks) > 8
    assert reader.decoded_chunks == len(reader.header.chunks)


def test_the_digest_is_that_of_the_tensors(model, tmp_path):
    path = tmp_path / "x.mtq"
    metaq.save(model, path)
    assert contents.verify_file(path, Progress())["weights_sha256"] == digest(model.decompress())


def test_a_model_of_aliases_and_nothing(tmp_path):
    tensors = {"a": torch.zeros(0), "b": Alias("a")}
    found = contents.inspect(Reader(encode(CompressedModel(tensors))))
    assert [row["kind"] for row in found.rows] == ["kept", "alias of a"]
    assert found.summary["entropy_order_1_bits_per_weight"] == 0
