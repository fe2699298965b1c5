"""Folders compressed by several processes: the files of one process, byte for byte, and one line where it fails."""

import os
import signal
import subprocess
import time

import pytest
import torch
from launcher import python_on

from metaq.checkpoints.ranks import balanced, joined
from metaq.cli.app import app

NAMES = [f"model-{shard}-of-3.safetensors" for shard in (1, 2, 3)]


@pytest.fixture
def folder(write_folder):
    """Three shards of different sizes: matrices, a filter, biases, integers, an empty tensor and one with a NaN."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator)

    odd = normal(5, 6)
    odd[2, 3] = torch.nan
    shards = [
        {"embed.weight": normal(300, 64, scale=0.02), "embed.norm": 1 + normal(64, scale=0.1)},
        {"block.weight": normal(64, 64).bfloat16(), "block.bias": normal(64), "odd": odd, "empty": torch.zeros(0, 4)},
        {"head.filter": normal(40, 8, 3, 3, scale=0.3), "head.half": normal(50, 30).half(), "steps": torch.arange(99)},
    ]
    path = write_folder(dict(zip(NAMES, shards, strict=True)))
    (path / "config.json").write_text('{"hidden_size": 64}')
    return path


def program(processes, arguments):
    """`metaq`, alone on two threads or by torchrun on one each, as `subprocess` takes it."""
    return {
        "args": [*python_on(processes), "-m", "metaq", *map(str, arguments)],
        "env": os.environ | {"OMP_NUM_THREADS": "2" if processes == 1 else "1"},
        "text": True,
    }


def run(processes, *arguments, timeout=300):
    """The exit code, standard output and standard error of `metaq`."""
    ended = subprocess.run(**program(processes, arguments), capture_output=True, timeout=timeout)
    return ended.returncode, ended.stdout, ended.stderr


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(errors):
    """What `metaq` itself said."""
    return [line for line in errors.splitlines() if line.startswith("metaq: ")]


def check_same(folder, tmp_path, processes, *options):
    app(["compress", str(folder), "-o", str(tmp_path / "one"), "-q", *options], standalone_mode=False)
    code, output, errors = run(processes, "compress", folder, "-o", tmp_path / "many", "-q", *options)
    assert (code, output) == (0, ""), errors
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert not (tmp_path / "many.partial").exists()
    return lines(errors)


def test_two_processes_give_the_files_of_one(folder, tmp_path):
    warned = check_same(folder, tmp_path, 2, "--bits", "3")
    expected = "expected weights that float32 holds, found NaN, infinity or larger ones; it is kept exactly"
    assert warned == [f"metaq: tensor 'odd': {expected}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--size", "20kB"),
        ("--max-error", "1e-2", "--keep", "head.*"),
        ("--bits", "2.5", "--set", "block.*:bits=5", "--coder", "rans"),
        ("--quality", "high", "--coder", "adaptive"),
        ("--lossless",),
        ("--step", "0.01"),
    ],
    ids=lambda options: options[0],
)
@pytest.mark.parametrize("processes", [2, 4])  # of four, one has no shard
def test_the_files_of_one_process(folder, tmp_path, processes, options):
    check_same(folder, tmp_path, processes, *options)


@pytest.mark.slow
def test_many_weights_are_written_in_trials(write_folder, tmp_path):
    """Of so many, the step is looked for on a sample, and files are written until they meet the target."""
    generator = torch.Generator().manual_seed(0)
    shards = {name: {name[6]: torch.randn(900, 3500, generator=generator).bfloat16()} for name in NAMES}
    check_same(write_folder(shards), tmp_path, 2, "--size", "4MB")


@pytest.mark.slow
def test_one_process_prints(folder, tmp_path):
    code, output, _ = run(2, "compress", folder, "-o", tmp_path / "many", "--json")
    assert code == 0
    assert output.count('"bytes_before"') == 1


@pytest.mark.slow
@pytest.mark.parametrize("broken", NAMES)
def test_a_broken_shard_ends_all(folder, tmp_path, broken):
    """Whoever has it: the first process opens all shards, the others their own."""
    path = folder / broken
    path.write_bytes(path.read_bytes()[:-100])
    alone = run(1, "compress", folder, "-o", tmp_path / "one")
    shared = run(2, "compress", folder, "-o", tmp_path / "many")
    assert alone[0] == 2
    assert shared[:2] == (1, "")  # torchrun's own
    assert lines(shared[2]) == lines(alone[2]) != []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--size", "10"), "size_bytes: expected at least"),
        (("--bits", "3", "--lossless"), "expected at most one of"),
        (("--nonsense", "data"), "No such option: --nonsense"),
        (("--calibrate", "data"), "--calibrate: expected one process, found 2"),
    ],
)
def test_what_cannot_be_is_said_once(folder, tmp_path, options, expected):
    code, output, errors = run(2, "compress", folder, "-o", tmp_path / "many", *options)
    assert (code, output) == (1, "")
    *_, line = lines(errors)
    assert expected in line
    assert errors.count(line) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.slow
def test_a_file_is_refused(folder, tmp_path):
    _, _, errors = run(2, "compress", folder / NAMES[0], "-o", tmp_path / "many.mtq")
    (line,) = lines(errors)
    assert line.endswith("expected a folder of shards to share among 2 ranks, found a file")


def finished(folder):
    """The shards that are recorded in a work folder as done."""
    return {path.name[len("metaq-state-") : -len(".json")] for path in folder.glob("metaq-state-*.json")}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_stopped_run_goes_on(write_folder, tmp_path, before, after):
    """With what any rank finished, on as many ranks or on others; the first shard takes longest and is not done."""
    generator = torch.Generator().manual_seed(0)
    rows = {NAMES[0]: 2500, NAMES[1]: 150, NAMES[2]: 150}
    folder = write_folder({name: {name[6]: torch.randn(rows[name], 1000, generator=generator)} for name in NAMES})
    arguments = ("compress", folder, "-o", tmp_path / "many", "-q", "--coder", "mixing", "--lossless")
    work, errors_only = tmp_path / "many.partial", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    started = subprocess.Popen(**program(before, arguments), **errors_only, start_new_session=True)
    while started.poll() is None and not finished(work):
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert lines(errors) == [
        "metaq: stopped; what is finished is kept: the same command with --resume goes on from there"
    ]
    kept = {name: (work / "files" / name).stat().st_mtime_ns for name in finished(work)}
    assert set() < kept.keys() <= {name.replace("safetensors", "mtq") for name in NAMES[1:]}
    assert not (tmp_path / "many").exists()

    code, _, errors = run(after, *arguments, "--resume")
    assert code == 0, errors
    assert {name: (tmp_path / "many" / name).stat().st_mtime_ns for name in kept} == kept
    assert run(1, *arguments[:3], tmp_path / "one", *arguments[4:])[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_shards_are_shared_evenly():
    assert balanced({"a": 5, "b": 9, "c": 4, "d": 1}, 2) == [["b", "d"], ["a", "c"]]
    assert balanced({"a": 5}, 3) == [["a"], [], []]


def test_without_torchrun_there_are_no_ranks(monkeypatch):
    """Other launchers set some of the same variables."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with joined() as ranks:
        assert ranks is None
