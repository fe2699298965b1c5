"""What Python reads of strangers' files and of its own: anything at all is taken, or refused in one line.

Files are made of good ones: bytes of theirs are changed, and, where they hold JSON or TOML, values at any place, which
are sealed again, so that what is behind the first checks is reached. Each parser has METAQ_FUZZ_SECONDS, or 5.
"""

import copy
import io
import json
import os
import re
import shutil
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import nn

import metaq
from metaq.checkpoints import CompressionConfig, compress_path
from metaq.checkpoints.resumable import WorkFolder
from metaq.errors import InputError, MetaqError
from metaq.experiments import recipe
from metaq.io import read_state
from metaq.io.huggingface import MTQ, SAFETENSORS, read_folder
from metaq.quantizers.calibration import Calibration, calibrate
from metaq.report.run_results import read_results
from metaq.report.tasks import task_entries, task_rows, tasks_of

SECONDS = float(os.environ.get("METAQ_FUZZ_SECONDS", "5"))
MOST_BYTES = 64 << 20  # of memory for one file, of which none has more than some kilobytes
MOST_SECONDS = 20
NESTED = "[" * 5000

ODD = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), True, False, None]),
    st.sampled_from(
        [
            "",
            "a\nb",
            "a\0b",
            "\ud800",
            "../x",
            "a\nb.safetensors",
            "x" * 300,
            "F32",
            [],
            [[]],
            {},
            {"a": 1},
            [0, 2**62],
            [-1, 4],
        ]
    ),
    st.integers(),
    st.text(max_size=4),
)


def places(tree, path=()):
    """The paths of all values of a tree of dictionaries and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@st.composite
def changed_trees(draw, tree):
    """A tree with some values or keys that are others, or not there."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        known = list(places(tree))
        if not known:
            return tree
        *path, last = draw(st.sampled_from(known))
        inner = tree
        for key in path:
            inner = inner[key]
        change = draw(st.sampled_from(["value", "value", "key", "none"]))
        value = copy.deepcopy(draw(ODD)) if change == "value" else inner.pop(last)
        if change == "value":
            inner[last] = value
        elif change == "key" and isinstance(inner, dict):
            inner[draw(st.text(max_size=4) | st.sampled_from(["a\nb", "\ud800", "__metadata__"]))] = value
    return tree


def json_text(tree):
    return json.dumps(tree).replace('"nested"', NESTED).encode()


@st.composite
def changed_bytes(draw, data):
    """Some bytes of it replaced, left out or repeated, or its end cut off."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 1, 2, 8, len(data)]))
        piece = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[start : start + 40]) * 2)))
        data[start : start + size] = piece
    return bytes(data)


def safetensors_file(header, rest):
    text = header if isinstance(header, bytes) else json_text(header)
    return len(text).to_bytes(8, "little") + text + rest


def split(data):
    """A safetensors file's header, as a tree, and what follows."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5), "c": torch.ones(2).bfloat16()}
CHECKPOINT = safetensors.torch.save(STATE, {"k": "v"})


def safetensors_files():
    header, rest = split(CHECKPOINT)
    return st.builds(safetensors_file, changed_trees(header), st.just(rest)) | changed_bytes(CHECKPOINT)


def read_safetensors(folder, data):
    (folder / "x.safetensors").write_bytes(data)
    read_state(folder / "x.safetensors")


INDEX = {"metadata": {"total_size": 96}, "weight_map": dict.fromkeys(STATE, "x.safetensors")}


def indices():
    return st.builds(json_text, changed_trees(INDEX)) | changed_bytes(json_text(INDEX))


def read_index(folder, data):
    (folder / "x.safetensors").write_bytes(CHECKPOINT)
    (folder / "model.safetensors.index.json").write_bytes(data)
    found = read_folder(folder, SAFETENSORS)
    found.check(lambda shard: STATE)
    found.check_names(MTQ)
    (folder / "out").mkdir()
    found.finish(folder / "out", MTQ)


RECIPE = (Path(recipe.__file__).parent / "recipes" / "lenet300-lc-mnist.toml").read_bytes()


def recipes():
    words = st.sampled_from(
        [b"[", b"]", b"=", b'"', b"'", b"\n", b"{", b"}", b".", b"e9999", b"1979-05-27", b"[" * 5000]
    )
    lines = st.lists(st.sampled_from(RECIPE.splitlines(keepends=True)) | words, max_size=30).map(b"".join)
    return lines | changed_bytes(RECIPE)


def read_recipe(folder, data):
    (folder / "x.toml").write_bytes(data)
    recipe.load_recipe(str(folder / "x.toml"))


HEADERS = st.builds(
    "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
    st.sampled_from(
        ["'<f4'", "'|O'", "'<U9'", "'|V0'", "'>i8'", "'<M8[s]'", "[('a', '<f4')]", "3", "'" + "(" * 300 + "'"]
    ),
    st.sampled_from(["False", "True", "None", "1"]),
    st.sampled_from(
        ["(3,)", "(3L,)", "()", "(2**40,)", f"({2**40},)", f"({2**62}, {2**62})", "(-1,)", "(0,)", "3", NESTED]
    ),
)


@st.composite
def archives(draw):
    """An .npz file with a member that begins otherwise, or says that it has other sizes."""
    text = draw(HEADERS)
    version = draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]))
    size = draw(st.sampled_from([len(text), 0, 2**16 - 1]))
    start = b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little")
    file = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name in draw(st.lists(st.sampled_from(["a.npy", "b", "a\nb.npy", "../c.npy"]), min_size=1, max_size=3)):
            archive.writestr(name, start + text.encode() + b"\n" + np.ones(3, np.float32).tobytes())
    data = file.getvalue()
    if draw(st.booleans()):  # the size of a member in the archive's directory
        place = data.index(b"PK\1\2") + 24
        data = data[:place] + draw(st.sampled_from([2**31, 2**32 - 2])).to_bytes(4, "little") + data[place + 4 :]
    return data


def npz_files():
    file = io.BytesIO()
    np.savez(file, a=np.ones((2, 3), np.float32), b=np.arange(4))
    return archives() | changed_bytes(file.getvalue())


def read_npz(folder, data):
    (folder / "x.npz").write_bytes(data)
    read_state(folder / "x.npz")


def calibrations():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x")
        calibrate(model, [torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, 2, dtype=torch.int64)]).save(path)
        data = path.read_bytes()
    header, rest = split(data)
    fields = json.loads(header["__metadata__"]["metaq.calibration"])

    def with_fields(tree):
        return safetensors_file(header | {"__metadata__": {"metaq.calibration": json_text(tree).decode()}}, rest)

    return (
        changed_trees(fields).map(with_fields)
        | st.builds(safetensors_file, changed_trees(header), st.just(rest))
        | changed_bytes(data)
    )


def read_calibration(folder, data):
    (folder / "x").write_bytes(data)
    found = Calibration.load(folder / "x")
    for name in found.views:
        found.importance(name)


CONFIG = CompressionConfig(step=0.5)


class StoppedRun:
    """A run that was stopped when it called a function of its work folder, and the file of JSON to be changed."""

    def __init__(self, function, pattern):
        self.folder = Path(tempfile.mkdtemp())
        safetensors.torch.save_file({"a": torch.arange(9.0).reshape(3, 3)}, self.folder / "x.safetensors")
        with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(WorkFolder, function, self.stop)
            self.resume(self.folder, resume=False)
        (found,) = (self.folder / "x.mtq.partial").glob(pattern)
        self.name, self.data = found.relative_to(self.folder), found.read_bytes()

    def stop(self, *_):
        raise KeyboardInterrupt

    def resume(self, folder, resume=True):
        return compress_path(folder / "x.safetensors", folder / "x.mtq", CONFIG, resume=resume)

    def changed(self):
        tree = json.loads(self.data)
        return changed_trees(tree).map(json_text) | changed_bytes(self.data)

    def read(self, folder, data):
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        (folder / self.name).write_bytes(data)
        self.resume(folder).as_dict()
        assert read_state_of(folder / "x.mtq") == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]


def read_state_of(path):
    return metaq.load_file(path)["a"].tolist()


def stopped_before():
    """Where all parts are done, and not in their place."""
    return StoppedRun("publish", "metaq-state-*")


def stopped_after():
    """Where the output is in its place."""
    return StoppedRun("remove", "metaq-state.json")


RESULT = json.loads((Path(__file__).parents[2] / "results" / "lenet5-caffe-hemp-lobster.json").read_text())
RESULT["config"] = {key: RESULT["config"][key] for key in ("seed", "network", "data", "method", "pruning")}
RUN_OF_SEEDS = {"seed": 0, "file_bytes": 800, "ratio": 200.5, "test_accuracy": 0.98, "test_accuracy_before": 0.99}
SUMMARY = {"recipe": "x", "seeds": 2, "runs": [RUN_OF_SEEDS, RUN_OF_SEEDS | {"seed": 1}], "config": RESULT["config"]}


def results():
    trees = changed_trees(RESULT) | changed_trees(SUMMARY)
    return trees.map(json_text) | changed_bytes(json_text(RESULT))


def read_result(folder, data):
    (folder / "x.json").write_bytes(data)
    for task in tasks_of(read_results([folder / "x.json"])):
        json.dumps([task_rows(task), task_entries(task)])


@pytest.fixture(scope="module")
def parsers():
    """What makes files, and what reads them, by name."""
    before, after = stopped_before(), stopped_after()
    yield {
        "safetensors": (safetensors_files(), read_safetensors),
        "index": (indices(), read_index),
        "recipe": (recipes(), read_recipe),
        "npz": (npz_files(), read_npz),
        "calibration": (calibrations(), read_calibration),
        "result": (results(), read_result),
        "note": (before.changed(), before.read),
        "state": (after.changed(), after.read),
    }
    for run in (before, after):
        shutil.rmtree(run.folder)


NAMES = ("safetensors", "index", "recipe", "npz", "calibration", "result", "note", "state")


def check(read, data):
    """What is read is taken, or refused in one line, with little memory and at once; and no warnings come of it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracemalloc.start()
        message = refusal(read, Path(place), data)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    if message is not None:
        assert "expected" in message
        assert len(message.splitlines()) == 1
    assert peak_bytes < MOST_BYTES
    assert time.monotonic() - start < MOST_SECONDS
    assert [str(warning.message) for warning in caught] == []


def refusal(read, folder, data):
    """What is said of a file that is refused."""
    try:
        read(folder, data)
    except MetaqError as error:
        return str(error)
    return None


def run(made, read, number, examples):
    """How many files were read."""
    count = 0

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=made | st.binary(max_size=100))
    def each(data):
        nonlocal count
        count += 1
        check(read, data)

    each()
    return count


@pytest.mark.parametrize("name", NAMES)
def test_parser(parsers, name):
    run(*parsers[name], 0, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parser_for_long(parsers, name):
    end, count, number = time.monotonic() + SECONDS, 0, 1
    while time.monotonic() < end:
        count += run(*parsers[name], number, 200)
        number += 1
    print(f"{name}: {count} files")


@pytest.mark.parametrize(
    ("stopped", "key", "value"), [(stopped_before, "size_bytes", 0), (stopped_after, "source_bytes", 1 << 63)]
)
def test_numbers_that_no_run_comes_to(tmp_path, stopped, key, value):
    run = stopped()
    data = re.sub(rf'"{key}": \d+'.encode(), f'"{key}": {value}'.encode(), run.data)
    assert data != run.data
    with pytest.raises(InputError, match="expected what a stopped run left, found something else"):
        run.read(tmp_path, data)
    shutil.rmtree(run.folder)
