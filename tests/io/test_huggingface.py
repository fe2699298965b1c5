"""Folders of shards: what comes back is what was there, and what is malformed is refused before anything is written."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from metaq.checkpoints import CompressionConfig, compress_path, decompress_path
from metaq.errors import FormatError, InputError
from metaq.io.huggingface import MTQ, SAFETENSORS, read_folder

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
LOSSLESS = CompressionConfig(lossless=True)


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"z{seed}.weight": torch.randn(40, 30, generator=generator).bfloat16(),
        f"a{seed}.weight": torch.randn(20, 8, 3, 3, generator=generator),
        f"ü{seed}.bias": torch.randn(20, generator=generator),
        f"{seed}.ids": torch.arange(seed + 5),
        f"{seed}.mask": torch.tensor([True, False]),
        f"{seed}.few": torch.randint(0, 3, (50, 60), generator=generator).half(),
        f"{seed}.odd": torch.tensor([[float("nan"), -0.0], [float("inf"), 1e-40]]),
        f"{seed}.empty": torch.empty(0, 4),
        f"{seed}.scalar": torch.tensor(2.5, dtype=torch.float64),
    }


@pytest.fixture
def folder(tmp_path):
    """As transformers writes it."""
    path = tmp_path / "model"
    (path / "nested").mkdir(parents=True)
    places = {}
    for seed, shard in enumerate(SHARDS):
        safetensors.torch.save_file(tensors(seed), path / shard, {"format": "pt"})
        places |= dict.fromkeys(tensors(seed), shard)
    content = {"metadata": {"total_size": 123}, "weight_map": places}
    (path / INDEX).write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    (path / "config.json").write_bytes(b'{"a": 1}\r\n')
    (path / "nested" / "tokenizer.bin").write_bytes(bytes(range(256)))
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def test_byte_for_byte_without_loss(tmp_path, folder):
    result = compress_path(folder, tmp_path / "small", LOSSLESS)
    compressed = contents(tmp_path / "small")
    names = [shard.replace(SAFETENSORS, MTQ) for shard in SHARDS]
    assert set(compressed) == {*names, "model.mtq.index.json", "config.json", "nested/tokenizer.bin"}
    assert json.loads(compressed["model.mtq.index.json"])["weight_map"]["a1.weight"] == names[1]
    assert result.file_bytes == sum(len(compressed[name]) for name in names)
    assert result.tensors == 2 * len(tensors(0))
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "small", "back"}


def test_quantized(tmp_path, folder):
    compress_path(folder, tmp_path / "small", CompressionConfig(max_error=1e-3))
    decompress_path(tmp_path / "small", tmp_path / "back")
    error = energy = 0.0
    for seed, shard in enumerate(SHARDS):
        with safe_open(tmp_path / "back" / shard, "pt") as back, safe_open(folder / shard, "pt") as was:
            assert back.offset_keys() == was.offset_keys()
            assert back.metadata() == was.metadata()
            for name, tensor in tensors(seed).items():
                found = back.get_tensor(name)
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                if name.split(".")[1] in ("weight", "few"):
                    error += float((found.double() - tensor.double()).square().sum())
                    energy += float(tensor.double().square().sum())
                elif name.endswith("bias"):
                    assert torch.equal(found, tensor.half().float())
                else:
                    assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert 0.99e-3 <= error / energy <= 1e-3
    other = json.loads((folder / INDEX).read_text())
    assert json.loads((tmp_path / "back" / INDEX).read_text()) == other


def test_a_single_file_without_index(tmp_path, folder):
    (folder / SHARDS[0]).rename(folder / "model.safetensors")
    for name in (SHARDS[1], INDEX):
        (folder / name).unlink()
    (tmp_path / "small").mkdir()  # an empty folder is no obstacle
    compress_path(folder, tmp_path / "small", LOSSLESS)
    assert set(contents(tmp_path / "small")) == {"model.mtq", "config.json", "nested/tokenizer.bin"}
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_links_are_followed(tmp_path, folder):
    """As in the cache of Hugging Face's hub."""
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    (folder / SHARDS[0]).rename(tmp_path / "blob2")
    (folder / SHARDS[0]).symlink_to(tmp_path / "blob2")
    compress_path(folder, tmp_path / "small", LOSSLESS)
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert not (tmp_path / "back" / "config.json").is_symlink()


def test_everything_beside_the_model_comes_along(tmp_path, folder):
    """Files that are called like metaq's own, empty folders, and permissions."""
    (folder / "metaq-state.json").write_text("{}")
    (folder / "metaq-state-x.mtq.json").write_text("[]")
    (folder / ".metaq-mine.tmp").write_text("mine")
    (folder / ".metaq-folder.tmp" / "empty").mkdir(parents=True)
    (folder / "empty").mkdir()
    modes = {"run.sh": 0o755, "secret.json": 0o600, "read-only.txt": 0o444}
    for name, mode in modes.items():
        (folder / name).write_text(name)
        (folder / name).chmod(mode)
    compress_path(folder, tmp_path / "small", LOSSLESS)
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    for made in (tmp_path / "small", tmp_path / "back"):
        assert (made / "empty").is_dir()
        assert (made / ".metaq-folder.tmp" / "empty").is_dir()
        assert {name: (made / name).stat().st_mode & 0o777 for name in modes} == modes
    (tmp_path / "back" / SHARDS[0]).chmod(0o600)
    decompress_path(tmp_path / "small", tmp_path / "back", force=True)
    assert (tmp_path / "back" / SHARDS[0]).stat().st_mode & 0o777 == 0o600


def unreadable(path):
    (path / "nested").chmod(0)
    if os.access(path / "nested", os.R_OK):
        pytest.skip("the superuser reads every folder")


ODD_NEIGHBOURS = {
    "a folder that cannot be read": (unreadable, "nested: expected a folder that can be read, found Permission denied"),
    "a pipe": (
        lambda path: os.mkfifo(path / "pipe"),
        "pipe: expected files and folders beside a model, found a device",
    ),
    "a device": (lambda path: (path / "zeros").symlink_to("/dev/zero"), "zeros: expected files .*, found a device"),
    "a broken link": (
        lambda path: (path / "x").symlink_to("none"),
        "x: expected files .*, found a link that leads nowhere",
    ),
}


@pytest.mark.parametrize(("place", "message"), ODD_NEIGHBOURS.values(), ids=ODD_NEIGHBOURS.keys())
def test_what_cannot_come_along_is_refused_first(tmp_path, folder, place, message):
    place(folder)
    with pytest.raises(InputError, match=message):
        compress_path(folder, tmp_path / "small", LOSSLESS)
    assert not (tmp_path / "small").exists()


def test_a_folder_whose_walk_fails(tmp_path, folder, monkeypatch):
    """As where a subfolder cannot be read, for the superuser too."""

    def scandir(path, scan=os.scandir):
        if Path(path).name == "nested":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="nested: expected a folder that can be read, found Permission denied"):
        compress_path(folder, tmp_path / "small", LOSSLESS)


def test_more_shards_than_open_files(tmp_path):
    path, few = tmp_path / "model", len(os.listdir("/proc/self/fd")) + 16
    path.mkdir()
    places = {f"{number}.weight": f"{number}.safetensors" for number in range(30)}
    for number, (name, shard) in enumerate(places.items()):
        safetensors.torch.save_file({name: torch.full((2, 3), number)}, path / shard)
    (path / INDEX).write_text(json.dumps({"weight_map": places}))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    try:
        compress_path(path, tmp_path / "small", LOSSLESS)
        decompress_path(tmp_path / "small", tmp_path / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(contents(tmp_path / "back")) == 31


def test_tensors_that_the_index_does_not_name_are_kept(tmp_path, folder):
    edit_index(folder, lambda places: places.pop("z0.weight"))
    compress_path(folder, tmp_path / "small", LOSSLESS)
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert (tmp_path / "back" / SHARDS[0]).read_bytes() == (folder / SHARDS[0]).read_bytes()


BAD = {
    "missing shard": (
        lambda folder: (folder / SHARDS[1]).unlink(),
        rf"{INDEX}: expected the shard {SHARDS[1]!r} beside it, found no such file",
    ),
    "wrong shard": (
        lambda folder: edit_index(folder, lambda places: places.update({"a0.weight": SHARDS[1]})),
        rf"expected tensor 'a0.weight' in {SHARDS[1]}, found it in {SHARDS[0]}",
    ),
    "no such tensor": (
        lambda folder: edit_index(folder, lambda places: places.update({"none": SHARDS[1]})),
        rf"expected tensor 'none' in {SHARDS[1]}, found it nowhere",
    ),
    "shard elsewhere": (
        lambda folder: edit_index(folder, lambda places: places.update({"none": "../x.safetensors"})),
        r"expected shards '\*.safetensors' beside it, found '../x.safetensors'",
    ),
    "other shards": (
        lambda folder: edit_index(folder, lambda places: places.update({"none": "x.bin"})),
        "found 'x.bin'",
    ),
    "no JSON": (lambda folder: (folder / INDEX).write_bytes(b"\xff{"), "expected JSON, found something else"),
    "deep JSON": (lambda folder: (folder / INDEX).write_text("[" * 100_000), "expected JSON, found something else"),
    "no map": (lambda folder: (folder / INDEX).write_text('{"weight_map": []}'), "a shard's name for each tensor"),
    "empty map": (lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'), "a shard's name for each tensor"),
    "odd map": (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": 1}}'), "a shard's name for each"),
    "two indices": (lambda folder: (folder / "x.safetensors.index.json").touch(), "expected one file"),
    "no index": (lambda folder: (folder / INDEX).unlink(), r"or else one '\*.safetensors', found model-00001"),
    "damaged shard": (lambda folder: (folder / SHARDS[1]).write_bytes(b"x" * 100), "expected a .safetensors file"),
    "name taken": (lambda folder: (folder / "model.mtq.index.json").touch(), "expected no file called 'model.mtq"),
    "a tensor twice": (
        lambda folder: safetensors.torch.save_file({**tensors(0), **tensors(1)}, folder / SHARDS[1]),
        "expected other tensors than in",
    ),
    "unknown dtype": (
        lambda folder: safetensors.torch.save_file(
            {**tensors(1), "x": torch.ones(2).to(torch.uint16)}, folder / SHARDS[1]
        ),
        "tensor 'x': expected one of F32, .* found U16",
    ),
}


@pytest.mark.parametrize(("harm", "message"), BAD.values(), ids=BAD.keys())
def test_malformed_folders(tmp_path, folder, harm, message):
    harm(folder)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        compress_path(folder, tmp_path / "small", LOSSLESS)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_no_checkpoint_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    for suffix in (SAFETENSORS, MTQ):
        with pytest.raises(InputError, match="found none"):
            read_folder(tmp_path / "empty", suffix)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", "found a file"),
        ("full", "found one with files in it"),
        ("model/inside", "expected a place outside of"),
        ("model", "expected a place outside of"),
        ("none/below", "expected a writable place, found No such file"),
        ("-", "found standard output"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, folder, name, message):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        compress_path(folder, Path("-") if name == "-" else tmp_path / name, LOSSLESS)
    assert contents(tmp_path) == before


def test_damaged_compressed_folders(tmp_path, folder):
    compress_path(folder, tmp_path / "small", LOSSLESS)
    shard = tmp_path / "small" / SHARDS[0].replace(SAFETENSORS, MTQ)
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(FormatError, match=rf"{shard}: expected chunk \d+ to match its checksum"):
        decompress_path(tmp_path / "small", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    shard.unlink()
    with pytest.raises(InputError, match=rf"expected the shard {shard.name!r} beside it"):
        decompress_path(tmp_path / "small", tmp_path / "back")


@pytest.fixture
def torch_folder(tmp_path):
    """As transformers wrote it before there was safetensors."""
    path, shards = tmp_path / "model", ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    path.mkdir()
    places = {}
    for seed, shard in enumerate(shards):
        torch.save(tensors(seed), path / shard)
        places |= dict.fromkeys(tensors(seed), shard)
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (path / "training_args.bin").write_bytes(b"x")
    return path


def test_shards_of_torch_come_back_as_safetensors_under_the_names_that_are_looked_for(tmp_path, torch_folder):
    compress_path(torch_folder, tmp_path / "small", LOSSLESS)
    decompress_path(tmp_path / "small", tmp_path / "back")
    assert set(contents(tmp_path / "back")) == {*SHARDS, INDEX, "training_args.bin"}
    for seed, shard in enumerate(SHARDS):
        found = safetensors.torch.load_file(tmp_path / "back" / shard)
        assert found.keys() == tensors(seed).keys()
        assert all(found[name].equal(tensor) for name, tensor in tensors(seed).items() if not name.endswith("odd"))


def test_a_single_file_of_torch(tmp_path, torch_folder):
    for path in torch_folder.glob("*model*"):
        path.unlink()
    torch.save(tensors(0), torch_folder / "pytorch_model.bin")
    compress_path(torch_folder, tmp_path / "small", LOSSLESS)
    assert set(contents(tmp_path / "small")) == {"model.mtq", "training_args.bin"}
