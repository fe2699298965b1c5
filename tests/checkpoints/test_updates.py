"""Differences between checkpoints: files and folders of every kind, chains, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import metaq
from metaq.checkpoints import apply_differences, fold_differences, updates, write_difference
from metaq.errors import FormatError, InputError

SUFFIXES = (".safetensors", ".pt", ".mtq")


def network(steps):
    """Weights after some steps of training."""
    generator = torch.Generator().manual_seed(0)
    state = {f"{i}.weight": (torch.randn(60, 50, generator=generator) * 0.02).bfloat16() for i in range(4)}
    state["norm"] = torch.ones(50)
    for _ in range(steps):
        for name, tensor in state.items():
            noise = torch.randn(tensor.shape, generator=generator)
            state[name] = (tensor.float() + 3e-6 * noise).to(tensor.dtype)
    return state


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path, {"format": "pt"})
    elif path.suffix == ".pt":
        torch.save(state, path)
    else:
        metaq.save(metaq.compress_losslessly(state), path)
    return path


def read(path):
    return {".safetensors": load_file, ".pt": torch.load, ".mtq": metaq.load_file}[path.suffix](path)


def write_folder(path, state, shards, config="{}", suffix=".safetensors"):
    path.mkdir()
    names = {f"model-{i + 1:05}-of-{shards:05}{suffix}": list(state)[i::shards] for i in range(shards)}
    for shard, own in names.items():
        write(path / shard, {name: state[name] for name in own})
    places = {name: shard for shard, own in names.items() for name in own}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (path / f"model{suffix}.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text(config)
    return path


def read_folder(path):
    found = {}
    for shard in sorted(path.glob("*.safetensors")):
        found |= load_file(shard)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)
    assert all(name in load_file(path / shard) for name, shard in index["weight_map"].items())
    return found


def assert_same(found, expected):
    assert metaq.checksum(found) == metaq.checksum(expected)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("to", SUFFIXES)
def test_files(tmp_path, suffix, to):
    base, new = write(tmp_path / f"base{suffix}", network(0)), write(tmp_path / f"new{to}", network(1))
    report = write_difference(base, new, tmp_path / "update.mtq")
    assert report["file_bytes"] == (tmp_path / "update.mtq").stat().st_size < 2000
    assert report["checkpoint_bytes"] == 4 * 6000 + 200
    apply_differences(base, [tmp_path / "update.mtq"], tmp_path / f"made{to}")
    assert_same(read(tmp_path / f"made{to}"), network(1))
    assert_same(read(base), network(0))


def test_a_safetensors_file_comes_back_byte_for_byte(tmp_path):
    base, new = write(tmp_path / "base.safetensors", network(0)), write(tmp_path / "new.safetensors", network(1))
    write_difference(base, new, tmp_path / "update.mtq")
    apply_differences(base, [tmp_path / "update.mtq"], base)
    assert base.read_bytes() == new.read_bytes()


def test_tied_tensors(tmp_path):
    states = [network(steps) for steps in range(3)]
    for state in states:
        state["tied"] = state["0.weight"]
    paths = [write(tmp_path / f"{i}.pt", state) for i, state in enumerate(states)]
    updates = [tmp_path / f"{i}.mtq" for i in range(2)]
    for i, update in enumerate(updates):
        write_difference(paths[i], paths[i + 1], update)
    for suffix in SUFFIXES:
        apply_differences(paths[0], updates, tmp_path / f"made{suffix}")
        found = read(tmp_path / f"made{suffix}")
        assert_same(found, states[2])
        is_shared = found["tied"].data_ptr() == found["0.weight"].data_ptr()
        assert is_shared == (suffix != ".safetensors")


def test_chains(tmp_path):
    paths = [write(tmp_path / f"{i}.safetensors", network(i)) for i in range(4)]
    updates = [tmp_path / f"{i}.mtq" for i in range(3)]
    for i, update in enumerate(updates):
        write_difference(paths[i], paths[i + 1], update)
    apply_differences(paths[0], updates, tmp_path / "made.safetensors")
    assert (tmp_path / "made.safetensors").read_bytes() == paths[3].read_bytes()
    before = sorted(tmp_path.iterdir())
    message = r"\d.mtq: expected the base [0-9a-f]{12}..., found [0-9a-f]{12}... in .*0.safetensors"
    for wrong in (updates[1:], updates[::-1], [updates[0], updates[0]], [updates[0], updates[2]]):
        with pytest.raises(InputError, match=message):
            apply_differences(paths[0], wrong, tmp_path / "other.safetensors")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_in_the_place_of_several(tmp_path, suffix):
    paths = [write(tmp_path / f"{i}{suffix}", network(i)) for i in range(3)]
    updates = [tmp_path / "a.mtq", tmp_path / "b.mtq"]
    for i, update in enumerate(updates):
        write_difference(paths[i], paths[i + 1], update)
    report = fold_differences(paths[0], updates, tmp_path / "both.mtq")
    assert report["file_bytes"] < sum(update.stat().st_size for update in updates)
    apply_differences(paths[0], [tmp_path / "both.mtq"], tmp_path / f"made{suffix}")
    assert_same(read(tmp_path / f"made{suffix}"), network(2))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"b.mtq: expected the base"):
        fold_differences(paths[0], updates[::-1], tmp_path / "other.mtq")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_folders_of_other_shards(tmp_path, shards):
    new = network(1) | {"fresh": torch.randn(3)}
    del new["norm"]
    base = write_folder(tmp_path / "base", network(0), 2, '{"version": 0}')
    other = write_folder(tmp_path / "new", new, shards, '{"version": 1}')
    (other / "notes").mkdir()
    (other / "notes" / "a.txt").write_text("ü")
    write_difference(base, other, tmp_path / "update.mtq")
    apply_differences(base, [tmp_path / "update.mtq"], tmp_path / "made")
    assert_same(read_folder(tmp_path / "made"), new)
    assert len(list((tmp_path / "made").glob("*.safetensors"))) == 2
    assert json.loads((tmp_path / "made" / "config.json").read_text()) == {"version": 1}
    assert (tmp_path / "made" / "notes" / "a.txt").read_text() == "ü"
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 6000 + 12
    assert_same(read_folder(base), network(0))


def test_a_folder_in_place(tmp_path):
    base = write_folder(tmp_path / "base", network(0), 2)
    write_difference(base, write_folder(tmp_path / "new", network(1), 2), tmp_path / "update.mtq")
    apply_differences(base, [tmp_path / "update.mtq"], base)
    assert_same(read_folder(base), network(1))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "new", "update.mtq"}
    with pytest.raises(InputError, match="expected the base"):
        apply_differences(base, [tmp_path / "update.mtq"], base)
    assert_same(read_folder(base), network(1))


def test_folders_of_other_files(tmp_path):
    torch_folder = write_folder(tmp_path / "bin", network(0), 1)
    (torch_folder / "model.safetensors.index.json").unlink()
    (torch_folder / "model-00001-of-00001.safetensors").unlink()
    torch.save(network(0), torch_folder / "pytorch_model.bin")
    mtq = write_folder(tmp_path / "mtq", network(1), 2, suffix=".mtq")
    write_difference(torch_folder, mtq, tmp_path / "update.mtq")
    apply_differences(torch_folder, [tmp_path / "update.mtq"], tmp_path / "made")
    assert_same(torch.load(tmp_path / "made" / "pytorch_model.bin"), network(1))
    write_difference(mtq, torch_folder, tmp_path / "back.mtq")
    apply_differences(mtq, [tmp_path / "back.mtq"], tmp_path / "plain")
    assert_same(read_folder(tmp_path / "plain"), network(0))
    apply_differences(mtq, [tmp_path / "back.mtq"], tmp_path / "one.safetensors")
    assert_same(load_file(tmp_path / "one.safetensors"), network(0))


def test_what_is_not_in_the_difference_is_said(tmp_path, caplog):
    base, new = write_folder(tmp_path / "base", network(0), 2), write_folder(tmp_path / "new", network(1), 2)
    (base / "merges.txt").write_text("a b")
    (new / "model.py").write_text("1")
    (new / "image.txt").write_bytes(b"\xff")
    write_difference(base, new, tmp_path / "update.mtq")
    assert [Path(record.args[0]).name for record in caplog.records] == ["base", "image.txt", "model.py"]
    assert "has files that are not in " in caplog.records[0].message
    assert caplog.records[0].message.endswith("new: merges.txt; a difference removes none")
    assert "is not in the difference; copy it by hand" in caplog.text


@pytest.mark.parametrize(
    "name", ["../config.json", "/tmp/a.json", "a/../../b.txt", "model.py", "c:a.json", "a\\b.json"]
)
def test_texts_stay_within_the_folder(tmp_path, name):
    base = write_folder(tmp_path / "base", network(0), 2)
    (tmp_path / "update.mtq").write_bytes(metaq.delta(network(0), network(1), {f"file {name}": "x"}))
    with pytest.raises(InputError, match=r"update.mtq: expected texts to be \.json"):
        apply_differences(base, [tmp_path / "update.mtq"], tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "update.mtq"}


def lost(made, old, new):
    errors, energy = (
        sum(float((first[name].double() - second[name].double()).square().sum()) for name in new)
        for first, second in ((made, new), (old, new))
    )
    return errors / energy


def moved(state):
    generator = torch.Generator().manual_seed(9)
    return {
        name: tensor + (1e-3 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in state.items()
    }


def test_with_loss(tmp_path):
    """Files and folders; a run that is resumed gives the same file."""
    old, new = network(0), moved(network(0))
    base, other = write(tmp_path / "base.safetensors", old), write_folder(tmp_path / "new", new, 3)
    update, config = tmp_path / "update.mtq", metaq.CompressionConfig(max_error=0.05)
    report = write_difference(base, other, update, config)
    assert report["file_bytes"] == update.stat().st_size < 7000
    assert 0.045 < report["relative_squared_error"] < 0.05
    apply_differences(base, [update], tmp_path / "made.safetensors")
    made = load_file(tmp_path / "made.safetensors")
    assert lost(made, old, new) < 0.055  # some of it by rounding to bfloat16
    assert torch.equal(made["norm"], new["norm"])
    before = update.read_bytes()
    write_difference(base, other, update, config, resume=True, force=True)
    assert update.read_bytes() == before
    assert not (tmp_path / "update.mtq.partial").exists()
    apply_differences(other, [_other_way(tmp_path, other, base)], other)
    assert_same(read_folder(other), old)


def _other_way(tmp_path, base, new):
    write_difference(base, new, tmp_path / "back.mtq")
    return tmp_path / "back.mtq"


def test_a_stopped_application_goes_on(tmp_path, monkeypatch):
    """With the shards that are left; not with another difference."""
    base, new = write_folder(tmp_path / "base", network(0), 3), write(tmp_path / "new.pt", network(1))
    update, made, work = tmp_path / "update.mtq", tmp_path / "made", tmp_path / "made.partial"
    write_difference(base, new, update)
    write_file = updates._write_file

    def stopped(application, path, names):
        if "00002" in path.name:
            raise KeyboardInterrupt
        write_file(application, path, names)

    monkeypatch.setattr(updates, "_write_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        apply_differences(base, [update], made)
    monkeypatch.setattr(updates, "_write_file", write_file)
    first = work / "files" / "model-00001-of-00003.safetensors"
    written = first.stat().st_mtime_ns
    assert not made.exists()
    other = tmp_path / "other.mtq"
    other.write_bytes(update.read_bytes())
    with pytest.raises(InputError, match="expected the source and the options that the run began with"):
        apply_differences(base, [other], made, resume=True)
    apply_differences(base, [update], made, resume=True)
    assert (made / first.name).stat().st_mtime_ns == written
    assert_same(read_folder(made), network(1))
    assert not work.exists()


def test_what_keeps_nothing_of_a_stopped_run_is_made_from_the_start(tmp_path):
    base, new = write(tmp_path / "base.safetensors", network(0)), write(tmp_path / "new.safetensors", network(1))
    update, made = tmp_path / "update.mtq", tmp_path / "made.safetensors"
    write_difference(base, new, update, resume=True)
    apply_differences(base, [update], made, resume=True)
    assert_same(load_file(made), network(1))


def test_folders_with_dots_in_their_names(tmp_path):
    base = write_folder(tmp_path / "base-3.1", network(0), 2)
    write_difference(base, write(tmp_path / "new.pt", network(1)), tmp_path / "update.mtq")
    apply_differences(base, [tmp_path / "update.mtq"], tmp_path / "made-3.1-8b")
    assert_same(read_folder(tmp_path / "made-3.1-8b"), network(1))


def test_what_is_refused_changes_nothing(tmp_path):
    base, new = write(tmp_path / "base.safetensors", network(0)), write(tmp_path / "new.safetensors", network(1))
    update = tmp_path / "update.mtq"
    write_difference(base, new, update)
    for source in (base, update):
        with pytest.raises(InputError, match="expected another place than the source"):
            fold_differences(base, [update], source, force=True)
    with pytest.raises(InputError, match=r"update.mtq: expected another place than the source"):
        apply_differences(base, [update], update, force=True)
    with pytest.raises(InputError, match="-: expected a place for a file, found standard output"):
        write_difference(base, new, Path("-"))
    with pytest.raises(InputError, match="expected no such file yet, found one; --force replaces it"):
        write_difference(base, new, update)
    write_difference(base, new, update, force=True)
    with pytest.raises(InputError, match="expected another place than the source"):
        write_difference(base, new, new, force=True)
    with pytest.raises(InputError, match=r"made.xyz: expected a path ending in"):
        apply_differences(base, [update], tmp_path / "made.xyz")
    with pytest.raises(InputError, match="expected no such file yet"):
        apply_differences(base, [update], new)
    flipped = network(0)
    flipped["2.weight"].view(torch.int16)[3, 3] ^= 1
    other = write(tmp_path / "flipped.safetensors", flipped)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for output in (tmp_path / "made.safetensors", other):
        with pytest.raises(InputError, match=f"update.mtq: expected the base {metaq.checksum(network(0))[:12]}"):
            apply_differences(other, [update], output)
    damaged = bytearray(update.read_bytes())
    damaged[-5] ^= 1
    update.write_bytes(damaged)
    for output in (tmp_path / "made.safetensors", base):
        with pytest.raises(FormatError, match=r"update.mtq: expected chunk \d to match its checksum"):
            apply_differences(base, [update], output)
    update.write_bytes(contents[update])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
