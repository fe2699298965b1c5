"""The command line as people meet it: exit codes, and one line for every failure."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import metaq
from metaq import coding
from metaq.cli import checkpoints
from metaq.compressed_model import CompressedModel


def test_help(command):
    code, output, errors = command()
    assert code == 2
    assert "Usage" in output + errors
    assert "metaq: " not in errors
    for arguments in (["--help"], ["compress", "--help"], ["train", "--help"]):
        code, output, errors = command(*arguments)
        assert (code, errors) == (0, "")
        assert "Usage" in output


@pytest.mark.parametrize(
    "arguments",
    [["compress"], ["nonsense"], ["compress", "--bits"], ["compress", "x", "-o", "y", "--bits", "four"], ["--nothing"]],
)
def test_usage_errors(fails, arguments):
    fails(*arguments)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_debug_shows_the_traceback(command, tmp_path, where):
    arguments = ["verify", str(tmp_path / "none.mtq")]
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.74 MiB"),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        ImportError("_native.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        SystemError("error return without exception set"),
    ],
)
def test_the_end_of_memory_is_called_so(fails, checkpoint, tmp_path, monkeypatch, error):
    def refuse(texts):
        raise error

    monkeypatch.setattr(checkpoints, "parse_bits", refuse)
    message = fails("compress", checkpoint, "-o", tmp_path / "x.mtq")
    assert message.startswith("metaq: metaq compress: expected more memory, found ")


LIMITED = """
import os, resource, sys
from metaq.cli import app
import metaq, torch
import metaq.checkpoints.compression, metaq.checkpoints.decompression, metaq.cli.checkpoints
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for kilobytes in (0, 8000, 32000, 500000):
    print(f"{kilobytes}:", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 1024 * kilobytes,) * 2)
        app.main()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, os.path.exists(sys.argv[4]), flush=True)
    if os.path.exists(sys.argv[4]):
        os.remove(sys.argv[4])
"""


@pytest.mark.slow
def test_memory_that_ends_at_any_stage(tmp_path):
    """One line, and no half output; or all of it."""
    generator = torch.Generator().manual_seed(0)
    source, file = tmp_path / "x.safetensors", tmp_path / "x.mtq"
    safetensors.torch.save_file({"w": torch.randn(700, 700, generator=generator)}, source)
    metaq.save(metaq.compress({"w": torch.randn(700, 700, generator=generator)}, step=0.5), file)
    for arguments in (
        ["compress", source, "-o", tmp_path / "y.mtq", "--lossless", "-q"],
        ["decompress", file, "-o", tmp_path / "y.npz", "-q"],
    ):
        command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        outcomes = finished.stdout.splitlines()
        # 127 is the loader's, of threads.
        assert set(outcomes) <= {"0 True", "2 False", "127 False"}, (outcomes, finished.stderr)
        told = re.split(r"\d+:\n", finished.stderr)[1:]
        for outcome, lines in zip(outcomes, told, strict=True):
            assert (lines.count("\n") == 1) == (outcome != "0 True"), lines
            assert outcome != "2 False" or "memory" in lines or "llocate" in lines, lines
        assert outcomes[0] != "0 True"
        assert outcomes[-1] == "0 True"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "x", "-o", "y", "--size", "9" * 400 + "kB"], "size: expected fewer than 2^63 bytes"),
        (["complexity", "--levels", "9" * 30], "Invalid value for '--levels'"),
        (["complexity", "--seed", "9" * 30], "Invalid value for '--seed'"),
        (["train", "lenet5-digits", "--seeds", "9" * 30], "seeds: expected 2 to 1000, found 9"),
        (
            ["sweep", "lenet5-digits", "--range", "method.radius=1:1" + "0" * 400],
            "expected a lower and a higher number",
        ),
        (["train", "a\0b.toml"], "expected a readable recipe, found"),
    ],
)
def test_numbers_beyond_reason(fails, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*arguments)


def test_a_process_of_its_own(file, start):
    finished = start("verify", file, "--json")
    output, errors = finished.communicate(timeout=60)
    assert (finished.returncode, errors) == (0, "")
    assert json.loads(output)["tensors"] == 4


def test_nobody_reads_on(file, start):
    process = start("inspect", file, "--json")
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)
    assert "Traceback" not in errors


def child(code, *arguments, **environment):
    """A process that runs Python code and then the command of these arguments."""
    command = [sys.executable, "-c", code + "\nfrom metaq.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["recipes"], ["recipes", "--json"], ["train", "-h"]])
def test_help_version_and_recipes_load_no_torch(arguments):
    code = "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)))"
    finished = child(code, *arguments)
    modules = finished.stderr.split()
    assert "metaq.cli.app" in modules
    assert not {"torch", "safetensors", "matplotlib"} & set(modules)


def test_version(succeeds):
    assert succeeds("--version") == f"metaq {metaq.__version__}\n"


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_the_command_lines_libraries_it_says_what_to_install(library):
    finished = child(f"import sys; sys.modules[{library!r}] = None", "--help")
    expected = f"metaq: the command line needs {library}: pip install 'metaq-nn[cli]'\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", expected)


def test_without_torch_it_says_what_to_install(checkpoint, tmp_path):
    finished = child("import sys; sys.modules['torch'] = None", "compress", checkpoint, "-o", tmp_path / "x.mtq")
    expected = "metaq: metaq compress needs torch: pip install 'metaq-nn[torch]'\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", expected)


def test_an_error_that_nobody_foresaw_is_one_line(fails, checkpoint, tmp_path, monkeypatch):
    def refuse(texts):
        raise ZeroDivisionError("of\nlines")

    monkeypatch.setattr(checkpoints, "parse_bits", refuse)
    message = fails("compress", checkpoint, "-o", tmp_path / "x.mtq")
    assert "compress: expected no error of this kind, found ZeroDivisionError: of lines" in message
    assert "--debug" in message


def complete(words, *, shell="bash"):
    environment = {
        "_METAQ_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    finished = child("", **environment)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.split()


def test_completion():
    assert complete("metaq comp") == ["compress", "compare", "complexity"]
    assert complete("metaq compress --qu") == ["--quality", "--quiet"]
    assert complete("metaq compress --coder ad") == ["adaptive"]
    assert complete("metaq train lenet5-d") == ["lenet5-digits"]
    assert complete("metaq compare --sort f") == ["first_bytes"]


def test_completion_says_what_a_coder_is_good_at():
    """In shells that show more than the words themselves."""
    environment = {"_METAQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "metaq compress --coder ad"}
    assert coding.by_name("adaptive").summary in child("", **environment).stdout


def test_completion_is_shown_and_installed(tmp_path):
    completion = child("", "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (completion.returncode, completion.stderr) == (0, "")
    assert "complete -o default -F _metaq_completion metaq" in completion.stdout
    options = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    installed = child("", "--install-completion", "bash", **options)
    assert (installed.returncode, installed.stderr) == (0, "")
    assert list(tmp_path.rglob("metaq.sh"))
    refused = child("", "--install-completion", "nonsense", **options)
    assert refused.returncode == 2
    assert refused.stderr.startswith("metaq: ")
    assert refused.stderr.count("\n") == 1


def test_control_characters_do_not_reach_the_terminal(succeeds, fails, tmp_path):
    path = tmp_path / "x\x1b[31m.mtq"
    assert "\\x1b[31m" in fails("verify", path)
    metaq.save(CompressedModel({"a\x1b[2J": torch.ones(2)}, {"\x1b": "\x07"}), path)
    for completion in (succeeds("inspect", path), succeeds("verify", path), succeeds("compare", path, path)):
        assert "\x1b" not in completion
        assert "\x07" not in completion


def test_letters_that_the_output_has_none_for(tmp_path):
    metaq.save(CompressedModel({"ü": torch.ones(2)}), tmp_path / "x.mtq")
    finished = child("", "inspect", tmp_path / "x.mtq", PYTHONIOENCODING="ascii")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "\\xfc" in finished.stdout
