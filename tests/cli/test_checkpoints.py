"""Commands on checkpoints: what they write and print, and what they refuse."""

import json
import os
import signal
import threading

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import metaq
from metaq import coding
from metaq.codebook import UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel

METADATA = {"format": "pt", "note": "ü [bold]x[/i]"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("coder", coding.coders)
def test_there_and_back(succeeds, tmp_path, checkpoint, suffix, coder, network):
    result = json.loads(
        succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "--step", "0.125", "--coder", coder, "--json")
    )
    assert result["bytes"] == (tmp_path / "x.mtq").stat().st_size
    assert result["bytes_before"] == 2 * 2400 + 80 + 8
    assert result["ratio"] == pytest.approx(4888 / result["bytes"])
    succeeds("decompress", tmp_path / "x.mtq", "--output", tmp_path / f"back{suffix}")
    loaded = metaq.load_file(tmp_path / "x.mtq")
    back = torch.load(tmp_path / f"back{suffix}") if suffix != ".safetensors" else None
    back = back or safetensors.torch.load_file(tmp_path / f"back{suffix}")
    assert back.keys() == loaded.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in loaded.items())
    assert torch.equal(back["a.bias"], network["a.bias"])
    assert float((back["z.weight"] - network["z.weight"]).abs().max()) <= 0.0625


def test_lossless(succeeds, tmp_path):
    state = {"a": torch.randn(2000, 400).to(torch.bfloat16), "b": torch.tensor([float("nan"), -0.0])}
    state["c"] = torch.randint(0, 50, (100, 100))  # whose integers the coders take different bytes for
    torch.save(state, tmp_path / "x.pt")
    sizes = {}
    for options in ((), ("--coder", "rans"), ("--coder", "mixing")):
        output = succeeds(
            "compress", tmp_path / "x.pt", "-o", tmp_path / "x.mtq", "-f", "--lossless", "--json", *options
        )
        sizes[options] = json.loads(output)["bytes"]
        succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "y.pt", "--force")
        back = torch.load(tmp_path / "y.pt")
        assert torch.equal(back["a"], state["a"])
        assert torch.equal(back["c"], state["c"])
        assert torch.equal(back["b"].view(torch.int32), state["b"].view(torch.int32))
    assert sizes["--coder", "mixing"] == sizes[()] != sizes["--coder", "rans"]
    assert max(sizes.values()) < 0.665 * 2 * 800_000


def test_order_and_ties_survive_from_and_to_torch(succeeds, tmp_path, network):
    torch.save(network, tmp_path / "x.pt")
    succeeds("compress", tmp_path / "x.pt", "-o", tmp_path / "x.mtq")
    succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "y.pt")
    back = torch.load(tmp_path / "y.pt")
    assert list(back) == list(network)
    assert back["tied"].data_ptr() == back["z.weight"].data_ptr()


def test_folders(succeeds, fails, tmp_path, checkpoint):
    (tmp_path / "model").mkdir()
    # safetensors writes metadata of several entries in an order that changes from call to call.
    safetensors.torch.save_file(
        safetensors.torch.load_file(checkpoint), tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    (tmp_path / "model" / "config.json").write_text("{}")
    printed = json.loads(succeeds("compress", tmp_path / "model", "-o", tmp_path / "small", "--lossless", "--json"))
    assert printed["folder"] == str(tmp_path / "small")
    assert (printed["shards"], printed["tensors"], printed["bytes_before"]) == (1, 4, 4888)
    succeeds("decompress", tmp_path / "small", "-o", tmp_path / "back")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert "found one with files in it" in fails("compress", tmp_path / "model", "-o", tmp_path / "back")
    assert "found standard output" in fails("compress", tmp_path / "model", "-o", "-")


def test_metadata_survives(succeeds, tmp_path, checkpoint):
    succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "--bits", "3")
    succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "y.safetensors")
    with safe_open(tmp_path / "y.safetensors", "pt") as back:
        assert back.metadata() == METADATA
    assert json.loads(succeeds("inspect", tmp_path / "x.mtq", "--json"))["metadata"] == METADATA


def test_size_is_met(succeeds, tmp_path, checkpoint, network):
    options = ["--size", "1.4kB", "--keep", "a.bias", "--set", "tied:bits=3"]
    succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", *options)
    assert 0.99 * 1400 <= (tmp_path / "x.mtq").stat().st_size <= 1400
    assert torch.equal(metaq.load_file(tmp_path / "x.mtq")["a.bias"], network["a.bias"])


def test_bits_give_smaller_files(succeeds, tmp_path, checkpoint):
    sizes = []
    for bits in ("1", "2", "4", "8"):
        output = succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "-f", "--bits", bits, "--json")
        sizes.append(json.loads(output)["bytes"])
    assert sizes == sorted(sizes)
    output = succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "-f", "--json")
    assert json.loads(output)["bytes"] == sizes[2]


def test_inspect(succeeds, file, network):
    printed = json.loads(succeeds("inspect", file, "--json"))
    assert printed["file_bytes"] == file.stat().st_size
    assert [row["tensor"] for row in printed["tensors"]] == list(network)
    assert [row["kind"] for row in printed["tensors"]] == ["coded", "kept", "coded", "alias of z.weight"]
    payloads = sum(row["bytes"] for row in printed["tensors"])
    assert payloads + printed["header_and_checksum_bytes"] == pytest.approx(printed["file_bytes"], abs=1)
    assert "z.weight" in succeeds("inspect", file)


def test_verify(succeeds, file):
    printed = json.loads(succeeds("verify", file, "--json"))
    assert printed["verdict"] == "whole and unchanged"
    assert printed["tensors"] == 4
    assert len(printed["weights_sha256"]) == 64
    assert "whole and unchanged" in succeeds("verify", file)


def test_pack(succeeds, fails, file, tmp_path):
    image, header = tmp_path / "net.mtd", tmp_path / "my-net.h"
    printed = json.loads(succeeds("pack", file, "-o", image, "--c", header, "--json"))
    assert printed["bytes"] == image.stat().st_size
    assert image.read_bytes().startswith(b"MTD\1")
    text = header.read_text()
    assert f"#define MY_NET_ARENA_BYTES {printed['arena_bytes']}\n" in text
    array = text.split("my_net[] = {")[1].split("}")[0]
    assert bytes(int(byte) for byte in array.split(",") if byte.strip()) == image.read_bytes()
    assert "give -o or --c" in fails("pack", file)
    assert "expected the name of a recipe" in fails("pack", file, "--c", header, "--forward")


def test_pack_with_the_forward_pass(succeeds, tmp_path):
    header, path = tmp_path / "net.h", "results/lenet5-digits.mtq"
    printed = json.loads(succeeds("pack", path, "--c", header, "--json"))
    assert printed["value_bytes"] == 4 * 4320
    assert "metaq::FileError net_forward(" in header.read_text()
    assert "value_bytes" not in json.loads(succeeds("pack", path, "--c", header, "--no-forward", "--json"))
    assert "forward" not in header.read_text()
    printed = json.loads(succeeds("pack", path, "--c", header, "--recipe", "lenet5-digits", "--forward", "--json"))
    assert printed["value_bytes"] == 4 * 4320


def test_pack_says_why_there_is_no_forward_pass(succeeds, fails, tmp_path):
    path, header = tmp_path / "net.mtq", tmp_path / "net.h"
    metaq.save(CompressedModel({"w": torch.ones(3, 4)}, {"recipe": "resnet8-cifar10-jpeg"}), path)
    reason = "expected a network that small devices compute, found resnet8"
    assert reason in json.loads(succeeds("pack", path, "--c", header, "--json"))["forward_pass"]
    assert reason in fails("pack", path, "--c", header, "--forward")


def test_a_difference(succeeds, fails, tmp_path):
    path, base = tmp_path / "task.mtq", {"w": torch.ones(40)}
    symbols = torch.zeros(40, dtype=torch.int32).index_fill_(0, torch.tensor([3, 7]), -2)
    entry = CodedTensor(symbols, UniformCodebook(0.5), torch.float32)
    metaq.save(CompressedModel({"w": entry}, base=metaq.checksum(base)), path)
    for verb in ("inspect", "verify"):
        assert json.loads(succeeds(verb, path, "--json"))["difference_from"] == metaq.checksum(base)
        assert metaq.checksum(base)[:12] in succeeds(verb, path)
    assert "weights_sha256" not in json.loads(succeeds("verify", path, "--json"))
    message = f"expected a whole model, found a difference from the base {metaq.checksum(base)[:12]}"
    for arguments in (["decompress", path, "-o", tmp_path / "x.pt"], ["compare", path, path]):
        assert message in fails(*arguments)


def test_names_like_markup_are_no_markup(succeeds, tmp_path):
    folder = tmp_path / "a[" / "b]"
    folder.mkdir(parents=True)
    path = tmp_path / "[red]x[" / "b].mtq"
    path.parent.mkdir()
    metaq.save(CompressedModel({"w": torch.ones(2)}), path)
    assert succeeds("verify", path, "--json")
    succeeds("decompress", path, "-o", folder / "x.pt")


def test_tensors_named_like_markup_are_shown(succeeds, tmp_path):
    metaq.save(CompressedModel({"a[/b]": torch.ones(2)}, {"[/x]": "[/y]"}), tmp_path / "x.mtq")
    printed = succeeds("inspect", tmp_path / "x.mtq")
    assert "a[/b]" in printed
    assert "[/y]" in printed


def torch_file(folder, content):
    torch.save(content, folder / "bad.pt")
    return folder / "bad.pt"


def damaged(path, position=-6):
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])
    return path


BAD_SOURCES = {
    "missing": lambda folder, good: folder / "none.safetensors",
    "directory": lambda folder, good: folder,
    "suffix": lambda folder, good: good.rename(folder / "model.h5"),
    "truncated": lambda folder, good: truncated(good),
    "damaged": lambda folder, good: damaged(good, 20),
    "no state dict": lambda folder, good: torch_file(folder, [1, 2]),
    "a pickle": lambda folder, good: torch_file(folder, {"a": Exception("x")}),
    "empty state": lambda folder, good: torch_file(folder, {}),
    "complex": lambda folder, good: torch_file(folder, {"a": torch.ones(2, dtype=torch.complex64)}),
    "no name": lambda folder, good: torch_file(folder, {"\ud800": torch.ones(2)}),
}


@pytest.mark.parametrize("make", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_compress_refuses(fails, tmp_path, checkpoint, make, names_in):
    source = make(tmp_path, checkpoint)
    before = names_in(tmp_path)
    assert "expected" in fails("compress", source, "-o", tmp_path / "x.mtq")
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--bits", "0"],
        ["--bits", "99"],
        ["--bits", "nan"],
        ["--step", "0"],
        ["--step", "-1"],
        ["--step", "inf"],
        ["--step", "1e-12"],
        ["--bits", "2", "--step", "1"],
        ["--coder", "zip"],
        ["--lossless", "--bits", "2"],
        ["--lossless", "--step", "1"],
        ["--lossless", "--keep", "*"],
        ["--bits", "2", "--quality", "low"],
        ["--size", "huge"],
        ["--set", "z.weight"],
    ],
)
def test_compress_refuses_options(fails, tmp_path, checkpoint, options, names_in):
    message = fails("compress", checkpoint, "-o", tmp_path / "x.mtq", *options)
    assert "expected" in message
    assert "found" in message
    assert names_in(tmp_path) == [checkpoint.name]


@pytest.mark.parametrize("name", ["none/x", "model.safetensors/x", "folder"])
def test_unwritable_outputs(fails, tmp_path, checkpoint, name, names_in):
    (tmp_path / "folder.mtq").mkdir()
    (tmp_path / "folder.pt").mkdir()
    before = names_in(tmp_path)
    assert "found" in fails("compress", checkpoint, "-o", tmp_path / f"{name}.mtq")
    metaq.save(CompressedModel({"a": torch.ones(2)}), tmp_path / "x.mtq")
    assert "found" in fails("decompress", tmp_path / "x.mtq", "-o", tmp_path / f"{name}.pt")
    assert names_in(tmp_path) == sorted([*before, "x.mtq"])


def empty_folder(path):
    (path.parent / "empty").mkdir()
    return path.parent / "empty"


def folder_with_a_damaged_file(path):
    folder = path.parent / "folder"
    folder.mkdir()
    damaged(path.rename(folder / "bad.mtq"))
    return folder


@pytest.mark.parametrize("verb", [["verify"], ["inspect"], ["inspect", "--json"], ["evaluate"], ["decompress"]])
@pytest.mark.parametrize(
    "harm", [damaged, truncated, empty_folder, folder_with_a_damaged_file, lambda path: path.parent / "none"]
)
def test_bad_files(fails, tmp_path, file, verb, harm, names_in):
    bad = harm(file)
    before = names_in(tmp_path)
    output = ["-o", tmp_path / ("out" if bad.is_dir() else "out.pt")] if verb == ["decompress"] else []
    message = fails(*verb, bad, *output)
    assert str(bad) in message
    assert "expected" in message
    assert "Traceback" not in message
    assert set(names_in(tmp_path)) - {"out.partial"} == set(before)


def test_newlines_in_names_stay_within_the_line(fails, tmp_path):
    coded = CodedTensor(torch.ones(1).int(), UniformCodebook(1.0), torch.half)
    model = CompressedModel({"a\nb": coded, "c": Alias("a\nb")})
    path = tmp_path / "x\ny.mtq"
    metaq.save(model, path)
    damaged(path)
    assert "checksum" in fails("verify", path)


def test_decompress_knows_its_suffixes_before_it_works(fails, tmp_path, file):
    assert "a path ending in" in fails("decompress", damaged(file), "-o", tmp_path / "x.h5")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_folder_that_is_stopped(tmp_path, names_in, start, interrupted, number):
    """What is finished stays, and --resume goes on to the same files."""
    folder, out, generator = tmp_path / "model", tmp_path / "out", torch.Generator().manual_seed(0)
    folder.mkdir()
    shards = {f"{shard}.weight": f"{shard}.safetensors" for shard in range(16)}
    for name, shard in shards.items():
        safetensors.torch.save_file({name: torch.randn(200, 400, generator=generator)}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    arguments = ["compress", folder, "-o", out, "--bits", "3"]
    code, output, errors = interrupted(start(*arguments), tmp_path / "out.partial" / "files" / "0.mtq", number)
    assert (code, output) == (130, ""), errors
    assert errors == "metaq: stopped; what is finished is kept: the same command with --resume goes on from there\n"
    assert names_in(tmp_path) == ["model", "out.partial"]
    done = len(list((tmp_path / "out.partial").glob("files/*.mtq")))
    assert 0 < done < 16
    resumed = start(*arguments, "--resume", "--json")
    output, errors = resumed.communicate(timeout=120)
    assert (resumed.returncode, errors) == (0, "")
    assert json.loads(output)["shards"] == 16
    assert names_in(tmp_path) == ["model", "out"]


def test_compare(succeeds, checkpoint, file, tmp_path, network):
    plain = json.loads(succeeds("compare", checkpoint, file, "--json"))
    assert {row["tensor"] for row in plain["tensors"]} == set(network)
    assert plain["second_bytes"] == file.stat().st_size
    coarser = tmp_path / "coarser.mtq"
    metaq.save(metaq.compress(network, step=1.0), coarser)
    both = json.loads(succeeds("compare", file, coarser, "--reference", checkpoint, "--json"))
    assert both["second_error"] > both["first_error"] > 0
    assert "relative squared error" in succeeds("compare", checkpoint, file)


def test_compare_refuses_what_is_no_network_of_the_recipe(fails, checkpoint):
    assert "expected the tensors of lenet5" in fails("compare", checkpoint, checkpoint, "--recipe", "lenet5-digits")


@pytest.mark.slow
def test_curve(succeeds, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "mixing" in succeeds("curve", checkpoint)
    rows = json.loads((tmp_path / "curve.json").read_text())["rows"]
    assert {row["quantizer"] for row in rows} == {"nearest", "rate", "trellis", "kmeans"}
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_compress_says_what_came_of_it(succeeds, tmp_path, checkpoint):
    printed = succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "--bits", "3")
    found = json.loads(succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "-f", "--bits", "3", "--json"))
    for key in ("relative_squared_error", "bits_per_weight", "coder", "seconds", "bytes_before", "bytes", "ratio"):
        assert key in found
        assert key.replace("_", " ") in printed
    assert 0 < found["relative_squared_error"] < 0.1
    assert 2.9 < found["bits_per_weight"] <= 3
    assert found["coder"] == "mixing"
    assert found["seconds"] > 0


def test_quiet(succeeds, fails, tmp_path, checkpoint, file):
    assert succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "-q") == ""
    assert succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "x.pt", "--quiet") == ""
    assert succeeds("verify", file, "-q") == ""
    assert json.loads(succeeds("verify", file, "-q", "--json"))["tensors"] == 4
    assert "expected" in fails("verify", tmp_path / "none.mtq", "-q")


def test_outputs_that_exist_are_kept_unless_forced(succeeds, fails, tmp_path, checkpoint):
    for name, arguments in {
        "x.mtq": ["compress", checkpoint],
        "y.safetensors": ["decompress", tmp_path / "x.mtq"],
        "curve.json": ["curve", checkpoint, "--plot", tmp_path / "new.svg"],
        "curve.svg": ["curve", checkpoint, "-o", tmp_path / "new.json", "--plot", tmp_path / "curve.svg"],
    }.items():
        output = tmp_path / name
        output.write_bytes(b"mine")
        options = [] if name == "curve.svg" else ["-o", output]
        assert "--force" in fails(*arguments, *options)
        assert output.read_bytes() == b"mine"
        assert not (tmp_path / "new.svg").exists()
        if arguments[0] != "curve":
            succeeds(*arguments, *options, "--force")
            assert output.read_bytes() != b"mine"


@pytest.mark.parametrize("force", [[], ["-f"]])
def test_no_output_is_the_source(fails, checkpoint, file, folder, force):
    for source, verb in ((checkpoint, "compress"), (file, "decompress"), (checkpoint, "curve"), (folder, "compress")):
        before = {path: path.read_bytes() for path in (folder.iterdir() if source == folder else [source])}
        fails(verb, source, "-o", source, *force)
        assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "{0}", "-o", "x.mtq", "--quality", "best"],
        ["compress", "{0}", "-o", "x.mtq", "--set", "z*:bits=2", "--set", "z*:bits=3"],
        ["compress", "{0}", "-o", "x.mtq", "--key"],
        ["compress", "{0}", "-o", "x.mtq", "--force=yes"],
        ["decompress", "{1}", "-o", "x.pt", "--bits", "3"],
        ["verify", "{1}", "--quiet=1"],
        ["compare", "{0}", "{1}", "--top", "0"],
        ["compare", "{0}", "{1}", "--top", "many"],
        ["compare", "{0}", "{1}", "--sort", "nonsense"],
        ["compare", "{0}"],
        ["inspect", "{1}", "-q"],
    ],
)
def test_wrong_arguments(fails, checkpoint, file, tmp_path, monkeypatch, names_in, arguments):
    monkeypatch.chdir(tmp_path)
    fails(*(argument.format(checkpoint, file) for argument in arguments))
    assert names_in(tmp_path) == ["model.mtq", "model.safetensors"]


def test_of_several_patterns_the_first_that_matches_counts(succeeds, checkpoint, tmp_path):
    sizes = {}
    for order in (("z*", "*"), ("*", "z*")):
        bits = {"z*": "z*:bits=6", "*": "*:bits=2"}
        options = [option for pattern in order for option in ("--set", bits[pattern])]
        printed = succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "-f", "--json", *options)
        sizes[order] = json.loads(printed)["bytes"]
    assert sizes["z*", "*"] > 1.3 * sizes["*", "z*"]


def test_what_the_library_warns_of_is_a_line(command, tmp_path):
    torch.save({"odd": torch.tensor([[torch.nan, 1.0]]), "w": torch.ones(2, 2)}, tmp_path / "x.pt")
    code, output, errors = command("compress", tmp_path / "x.pt", "-o", tmp_path / "x.mtq", "--step", "0.1", "-q")
    assert (code, output) == (0, "")
    assert errors.startswith("metaq: ")
    assert errors.count("\n") == 1
    assert "'odd'" in errors


def test_inspect_verify_and_pack_read_pipes(succeeds, file, tmp_path, monkeypatch):
    for command in ("inspect", "verify", "pack"):
        pipe, more = tmp_path / command, ["-o", tmp_path / "image"] if command == "pack" else []
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(file.read_bytes(),), daemon=True).start()
        found = json.loads(succeeds(command, pipe, "--json", *more))
        assert found.get("file") == (str(pipe) if command == "verify" else None)


def test_devices_are_refused(fails):
    for command in ("inspect", "verify", "compare", "decompress", "compress"):
        more = ["/dev/zero"] if command == "compare" else [] if command in ("inspect", "verify") else ["-o", "none.npz"]
        assert "/dev/zero: expected a file, found a device" in fails(command, "/dev/zero", *more)
