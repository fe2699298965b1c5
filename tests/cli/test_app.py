"""The command line as people meet it: what it prints, its exit codes, and one line for every failure."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import metaq
from metaq import coding
from metaq.cli import app
from metaq.codebook import UniformCodebook
from metaq.compressed_model import Alias, CodedTensor, CompressedModel

METADATA = {"format": "pt", "note": "ü [bold]x[/i]"}


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["metaq", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        app.main()
    return exited.value.code, *capsys.readouterr()


@pytest.fixture
def command(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


@pytest.fixture
def succeeds(command):
    """Standard output of a command that must succeed in silence otherwise."""

    def check(*arguments):
        code, output, errors = command(*arguments)
        assert (code, errors) == (0, "")
        return output

    return check


@pytest.fixture
def fails(command):
    """The one line of a command that must fail."""

    def check(*arguments):
        code, output, errors = command(*arguments)
        assert (code, output) == (2, "")
        assert errors.startswith("metaq: ")
        assert errors.count("\n") == 1
        assert errors.endswith("\n")
        return errors

    return check


def network():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(20, 30, generator=generator)
    return {"z.weight": base, "a.bias": torch.randn(20, generator=generator), "steps": torch.tensor(7), "tied": base}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    separate = {name: tensor.clone() for name, tensor in network().items()}
    safetensors.torch.save_file(separate, path, METADATA)
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.mtq"
    metaq.save(metaq.compress(network(), bits=3), path)
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("coder", coding.coders)
def test_there_and_back(succeeds, tmp_path, checkpoint, suffix, coder):
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
    assert torch.equal(back["a.bias"], network()["a.bias"])
    assert float((back["z.weight"] - network()["z.weight"]).abs().max()) <= 0.0625


def test_lossless(succeeds, tmp_path):
    state = {"a": torch.randn(2000, 400).to(torch.bfloat16), "b": torch.tensor([float("nan"), -0.0])}
    state["c"] = torch.randint(0, 50, (100, 100))  # whose integers the coders take different bytes for
    torch.save(state, tmp_path / "x.pt")
    sizes = {}
    for options in ((), ("--coder", "rans"), ("--coder", "mixing")):
        output = succeeds("compress", tmp_path / "x.pt", "-o", tmp_path / "x.mtq", "--lossless", "--json", *options)
        sizes[options] = json.loads(output)["bytes"]
        succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "y.pt")
        back = torch.load(tmp_path / "y.pt")
        assert torch.equal(back["a"], state["a"])
        assert torch.equal(back["c"], state["c"])
        assert torch.equal(back["b"].view(torch.int32), state["b"].view(torch.int32))
    assert sizes["--coder", "mixing"] == sizes[()] != sizes["--coder", "rans"]
    assert max(sizes.values()) < 0.665 * 2 * 800_000


def test_order_and_ties_survive_from_and_to_torch(succeeds, tmp_path):
    torch.save(network(), tmp_path / "x.pt")
    succeeds("compress", tmp_path / "x.pt", "-o", tmp_path / "x.mtq")
    succeeds("decompress", tmp_path / "x.mtq", "-o", tmp_path / "y.pt")
    back = torch.load(tmp_path / "y.pt")
    assert list(back) == list(network())
    assert back["tied"].data_ptr() == back["z.weight"].data_ptr()


def test_folders(succeeds, fails, tmp_path, checkpoint):
    (tmp_path / "model").mkdir()
    # safetensors writes metadata of several entries in an order that changes from call to call.
    safetensors.torch.save_file(
        safetensors.torch.load_file(checkpoint), tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    (tmp_path / "model" / "config.json").write_text("{}")
    shown = json.loads(succeeds("compress", tmp_path / "model", "-o", tmp_path / "small", "--lossless", "--json"))
    assert shown["folder"] == str(tmp_path / "small")
    assert (shown["shards"], shown["tensors"], shown["bytes_before"]) == (1, 4, 4888)
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


def test_size_is_met(succeeds, tmp_path, checkpoint):
    options = ["--size", "1.4kB", "--keep", "a.bias", "--set", "tied:bits=3"]
    succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", *options)
    assert 0.99 * 1400 <= (tmp_path / "x.mtq").stat().st_size <= 1400
    assert torch.equal(metaq.load_file(tmp_path / "x.mtq")["a.bias"], network()["a.bias"])


def test_bits_give_smaller_files(succeeds, tmp_path, checkpoint):
    sizes = []
    for bits in ("1", "2", "4", "8"):
        output = succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "--bits", bits, "--json")
        sizes.append(json.loads(output)["bytes"])
    assert sizes == sorted(sizes)
    assert json.loads(succeeds("compress", checkpoint, "-o", tmp_path / "x.mtq", "--json"))["bytes"] == sizes[2]


def test_inspect(succeeds, file):
    shown = json.loads(succeeds("inspect", file, "--json"))
    assert shown["file_bytes"] == file.stat().st_size
    assert [row["tensor"] for row in shown["tensors"]] == list(network())
    assert [row["kind"] for row in shown["tensors"]] == ["coded", "kept", "coded", "alias of z.weight"]
    payloads = sum(row["bytes"] for row in shown["tensors"])
    assert payloads + shown["header_and_checksum_bytes"] == pytest.approx(shown["file_bytes"], abs=1)
    assert "z.weight" in succeeds("inspect", file)


def test_verify(succeeds, file):
    shown = json.loads(succeeds("verify", file, "--json"))
    assert shown["verdict"] == "whole and unchanged"
    assert shown["tensors"] == 4
    assert len(shown["weights_sha256"]) == 64
    assert "whole and unchanged" in succeeds("verify", file)


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
    shown = succeeds("inspect", tmp_path / "x.mtq")
    assert "a[/b]" in shown
    assert "[/y]" in shown


def test_help(command):
    code, output, errors = command()
    assert code == 2
    assert "Usage" in output + errors
    assert "metaq: " not in errors
    for arguments in (["--help"], ["compress", "--help"], ["train", "--help"]):
        code, output, errors = command(*arguments)
        assert (code, errors) == (0, "")
        assert "Usage" in output


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
    "suffix": lambda folder, good: good.rename(folder / "model.bin"),
    "truncated": lambda folder, good: truncated(good),
    "damaged": lambda folder, good: damaged(good, 20),
    "no state dict": lambda folder, good: torch_file(folder, [1, 2]),
    "a pickle": lambda folder, good: torch_file(folder, {"a": Exception("x")}),
    "empty state": lambda folder, good: torch_file(folder, {}),
    "complex": lambda folder, good: torch_file(folder, {"a": torch.ones(2, dtype=torch.complex64)}),
    "no name": lambda folder, good: torch_file(folder, {"\ud800": torch.ones(2)}),
}


@pytest.mark.parametrize("make", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_compress_refuses(fails, tmp_path, checkpoint, make):
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
def test_compress_refuses_options(fails, tmp_path, checkpoint, options):
    message = fails("compress", checkpoint, "-o", tmp_path / "x.mtq", *options)
    assert "expected" in message
    assert "found" in message
    assert names_in(tmp_path) == [checkpoint.name]


@pytest.mark.parametrize(
    "arguments",
    [["compress"], ["nonsense"], ["compress", "--bits"], ["compress", "x", "-o", "y", "--bits", "four"], ["--nothing"]],
)
def test_usage_errors(fails, arguments):
    fails(*arguments)


@pytest.mark.parametrize("name", ["none/x", "model.safetensors/x", "folder"])
def test_unwritable_outputs(fails, tmp_path, checkpoint, name):
    (tmp_path / "folder.mtq").mkdir()
    (tmp_path / "folder.pt").mkdir()
    before = names_in(tmp_path)
    assert "found" in fails("compress", checkpoint, "-o", tmp_path / f"{name}.mtq")
    metaq.save(CompressedModel({"a": torch.ones(2)}), tmp_path / "x.mtq")
    assert "found" in fails("decompress", tmp_path / "x.mtq", "-o", tmp_path / f"{name}.pt")
    assert names_in(tmp_path) == sorted([*before, "x.mtq"])


@pytest.mark.parametrize("verb", [["verify"], ["inspect"], ["inspect", "--json"], ["evaluate"], ["decompress"]])
@pytest.mark.parametrize("harm", [damaged, truncated, lambda path: path.parent / "none", lambda path: path.parent])
def test_bad_files(fails, tmp_path, file, verb, harm):
    bad = harm(file)
    output = ["-o", tmp_path / "out.pt"] if verb == ["decompress"] else []
    message = fails(*verb, bad, *output)
    assert str(bad) in message
    assert "expected" in message
    assert "Traceback" not in message
    assert names_in(tmp_path) == ["model.mtq"]


def test_decompress_knows_its_suffixes_before_it_works(fails, tmp_path, file):
    assert "a path ending in" in fails("decompress", damaged(file), "-o", tmp_path / "x.bin")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_debug_shows_the_traceback(command, file, where):
    arguments = ["verify", str(damaged(file))]
    arguments.insert(where, "--debug")
    code, _, errors = command(*arguments)
    assert code == 2
    assert "Traceback" in errors
    assert errors.splitlines()[-1].startswith("metaq: ")


def test_too_little_memory_is_one_line(fails, file, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("Unable to allocate")

    monkeypatch.setattr(np, "empty", refuse)
    assert "expected memory for a tensor of" in fails("verify", file)


def test_newlines_in_names_stay_within_the_line(fails, tmp_path):
    coded = CodedTensor(torch.ones(1).int(), UniformCodebook(1.0), torch.half)
    model = CompressedModel({"a\nb": coded, "c": Alias("a\nb")})
    path = tmp_path / "x\ny.mtq"
    metaq.save(model, path)
    damaged(path)
    assert "checksum" in fails("verify", path)


def start(*arguments):
    command = [sys.executable, "-m", "metaq", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process, path):
    """The outcome of a process that gets Ctrl-C as soon as a path exists."""
    deadline = time.monotonic() + 180
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


SHORT = ["threads=1", "float_training.epochs=1", "training.epochs=1", "training.last_phase_epochs=1"]


def test_ctrl_c_and_resume(tmp_path):
    folder = tmp_path / "run"
    options = [f"--set={entry}" for entry in [*SHORT, "method.schedule=[[0, 0.0], [10, 1.0]]"]]
    arguments = ["train", "lenet5-digits", "--folder", folder, *options]
    code, output, errors = interrupted(start(*arguments), folder / "checkpoint.pt")
    assert (code, output) == (130, ""), errors
    assert errors.count("\n") == 1
    assert errors.startswith("metaq: stopped; ")
    assert "--resume" in errors
    known = {"config.json", "metrics.jsonl", "checkpoint.pt", "float.safetensors"}
    assert set(names_in(folder)) <= known
    resumed = start(*arguments, "--resume", "--json")
    output, errors = resumed.communicate(timeout=120)
    assert (resumed.returncode, errors) == (0, "")
    assert json.loads(output)["file_bytes"] == (folder / "model.mtq").stat().st_size


def test_ctrl_c_in_the_demo(tmp_path):
    folder = tmp_path / "demo"
    code, output, errors = interrupted(start("demo", "--folder", folder), folder / "metrics.jsonl")
    assert (code, output) == (130, ""), errors
    assert errors.count("\n") == 1
    assert f"metaq train lenet5-digits --folder {folder} --resume" in errors
    assert set(names_in(folder)) <= {"config.json", "metrics.jsonl", "checkpoint.pt"}


def test_ctrl_c_in_a_folder(tmp_path):
    """What is finished stays, and --resume goes on to the same files."""
    folder, out, generator = tmp_path / "model", tmp_path / "out", torch.Generator().manual_seed(0)
    folder.mkdir()
    shards = {f"{shard}.weight": f"{shard}.safetensors" for shard in range(16)}
    for name, shard in shards.items():
        safetensors.torch.save_file({name: torch.randn(200, 400, generator=generator)}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    arguments = ["compress", folder, "-o", out, "--bits", "3"]
    code, output, errors = interrupted(start(*arguments), tmp_path / "out.partial" / "metaq-state.json")
    assert (code, output) == (130, ""), errors
    assert errors == "metaq: stopped; what is finished is kept: the same command with --resume goes on from there\n"
    assert names_in(tmp_path) == ["model", "out.partial"]
    done = len(list((tmp_path / "out.partial").glob("*.mtq")))
    assert 0 < done < 16
    resumed = start(*arguments, "--resume", "--json")
    output, errors = resumed.communicate(timeout=120)
    assert (resumed.returncode, errors) == (0, "")
    assert json.loads(output)["shards"] == 16
    assert names_in(tmp_path) == ["model", "out"]


def test_a_process_of_its_own(file):
    finished = start("verify", file, "--json")
    output, errors = finished.communicate(timeout=60)
    assert (finished.returncode, errors) == (0, "")
    assert json.loads(output)["tensors"] == 4


def test_nobody_reads_on(file):
    process = start("inspect", file, "--json")
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)
    assert "Traceback" not in errors


def test_complexity(succeeds, tmp_path):
    plot = tmp_path / "plot.svg"
    shown = succeeds("complexity", "--levels", 32, "--draws", 200, "--plot", plot)
    assert "largest" in shown
    assert plot.read_text().startswith("<?xml")
    result = json.loads(succeeds("complexity", "--levels", 32, "--draws", 200, "--plot", plot, "--json"))
    assert sum(result["counts"]) == 200
    assert result["largest"] < 32


def test_compare(succeeds, checkpoint, file, tmp_path):
    plain = json.loads(succeeds("compare", checkpoint, file, "--json"))
    assert {row["tensor"] for row in plain["tensors"]} == set(network())
    assert plain["second_bytes"] == file.stat().st_size
    coarser = tmp_path / "coarser.mtq"
    metaq.save(metaq.compress(network(), bits=2), coarser)
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
