"""README.md and docs/ are true where that can be checked: their code runs, page by page, as a reader would type it.

Every ```python and ```console block of a page runs, in order, in one empty folder, which has the repository's
`results`, `examples` and `src` in it. A console block's commands begin with "$ "; the lines behind a command are
its output, in which "..." stands for anything. The same holds for the comment behind a `print(...)`. What begins with
"metaq: " is an error, which exits with 2. A ```toml block whose first line is "# NAME.toml" becomes that file. Blocks
of C, C++, CMake, Go, JavaScript and Rust are parts of files in `examples/`, which have tests of their own.

A comment before a block says that it does not run, or not always:

    <!-- not run: why -->          never; NOT_RUN has them all
    <!-- slow: how long -->        with `pytest -m slow` only
    <!-- needs METAQ_DATA -->      where that names a folder of data sets
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from metaq.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
INSTALL = '$ pip install -c constraints.txt ".[train]" && metaq demo'
NOT_RUN = {  # page, first line of the block
    ("README.md", f"{INSTALL}   # a minute or two; no data to download"),
    ("docs/c.md", "$ cmake -S . -B build -DMETAQ_PYTHON=OFF && cmake --build build && cmake --install build"),
    ("docs/c.md", "$ cc -std=c99 examples/c/first_tensor.c $(pkg-config --cflags --libs metaq) -o first_tensor"),
    (
        "docs/devices.md",
        "$ arm-none-eabi-g++ -std=c++20 -Os -mcpu=cortex-m4 -fno-exceptions -fno-rtti -fno-threadsafe-statics \\",
    ),
    ("docs/browser.md", "$ pip install ziglang && python wasm/build.py && npm install ./wasm"),
    ("docs/browser.md", "$ python examples/browser/build.py page.html"),
    ("docs/browser.md", "$ pytest -n 0 -s -m slow tests/wasm"),
    ("docs/install.md", INSTALL),
    ("docs/install.md", "$ pip install metaq-nn"),
    ("docs/trainers.md", "from lightning.pytorch import Trainer"),
    ("docs/trainers.md", "with accelerator.accumulate(model):"),
    ("docs/trainers.md", "$ python program.py fit --trainer.callbacks+=metaq.integrations.lightning.MetaqCallback \\"),
    (
        "docs/robustness.md",
        "$ pip install --no-build-isolation --no-deps -Cbuild-dir=build/sanitized"
        " -Ccmake.define.METAQ_SANITIZE_MODULE=ON .",
    ),
}


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    mark: str

    @property
    def is_not_run(self) -> bool:
        return self.mark.startswith("not run: ")

    @property
    def is_slow(self) -> bool:
        return self.mark.startswith("slow: ")

    @property
    def lacks_data(self) -> bool:
        return self.mark == "needs METAQ_DATA" and "METAQ_DATA" not in os.environ


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    fences = FENCE.finditer(page.read_text())
    return [Block(name_of(page), fence["language"], fence["text"], fence["mark"] or "") for fence in fences]


BLOCKS = {name_of(page): blocks_of(page) for page in PAGES}
RUN = {"python", "console"}
NATIVE = ("c", "cmake", "cpp", "go", "js", "rust")
SLOW = [name for name, blocks in BLOCKS.items() if any(block.is_slow for block in blocks)]


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if any(b.language in RUN for b in blocks)])
def test_code_runs(name, folder):
    run([block for block in BLOCKS[name] if not block.is_slow], folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_code_runs(name, folder):
    run(BLOCKS[name], folder)


def test_blocks_that_do_not_run_are_listed():
    marked = {(b.page, b.text.split("\n")[0]) for blocks in BLOCKS.values() for b in blocks if b.is_not_run}
    assert marked == NOT_RUN


def test_every_block_is_of_a_kind_that_is_checked():
    for page, blocks in BLOCKS.items():
        kinds = {*RUN, "toml", "text", *NATIVE}
        if page == "docs/cli.md":
            kinds.add("sh")  # which tests/cli/test_docs.py runs
        for block in blocks:
            assert block.language in kinds, f"{page}: {block.text}"
            is_known = block.mark in ("", "needs METAQ_DATA") or block.is_not_run or block.is_slow
            assert is_known, f"{page}: mark {block.mark!r}"


@pytest.mark.parametrize("language", NATIVE)
def test_native_code_is_that_of_the_examples(language):
    examples = [path.read_text() for path in (ROOT / "examples").rglob("*") if path.is_file()]
    for blocks in BLOCKS.values():
        for block in blocks:
            if block.language == language:
                assert any(block.text in example for example in examples), f"{block.page}: {block.text}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to be in, with `metaq` and `python` on the path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for program, arguments in {"metaq": "-m metaq", "python": ""}.items():
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / program).chmod(0o755)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks here are too small for more
    work_folder = tmp_path / "here"
    work_folder.mkdir()
    for name in ("results", "examples", "src"):
        (work_folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(work_folder)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield work_folder
    torch.set_num_threads(threads)


def run(blocks, folder):
    names = {"__name__": "__main__"}
    for block in blocks:
        if block.is_not_run or block.lacks_data:
            continue
        if block.language == "python":
            run_python(block, names)
        elif block.language == "console":
            run_console(block, folder)
        elif block.language == "toml":
            write_toml(block, folder)


def run_python(block, names):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, block.page, "exec"), names)
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", block.text, re.M)
    if expected:
        compare(block.page, "\n".join(expected), printed.getvalue())


def run_console(block, folder):
    lines = block.text.replace("\\\n", "").split("\n")
    assert lines[0].startswith("$ "), f"{block.page}: a console block begins with a command, not {lines[0]!r}"
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        command, expected = lines[start][2:], "\n".join(lines[start + 1 : end])
        code, found = run_metaq(command) if is_plain(command) else run_in_shell(command, folder)
        assert code == (2 if expected.startswith("metaq: ") else 0), f"{block.page}, {command}: {found}"
        if expected.strip():
            compare(f"{block.page}, {command}", expected, found)


def is_plain(command):
    return command.startswith("metaq ") and not re.search(r"[|&;<>$]", command)


def run_metaq(command):
    """In this process, which has PyTorch loaded: what a shell would do takes seconds more for each command."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr(sys, "argv", shlex.split(command, comments=True))
        try:
            main()
        except SystemExit as exit:
            return exit.code or 0, printed.getvalue()
    return 0, printed.getvalue()


def run_in_shell(command, folder):
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def write_toml(block, folder):
    tomllib.loads(block.text)
    name = re.match(r"# (\S+\.toml)\n", block.text)
    if name:
        (folder / name[1]).write_text(block.text)


def compare(place, expected, found):
    expected, found = ("\n".join(line.rstrip() for line in text.strip().split("\n")) for text in (expected, found))
    pattern = re.escape(expected).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, found, re.S), f"{place}: expected\n{expected}\nfound\n{found}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_begin_behind_an_empty_line(page):
    """A code host takes a list that follows text at once; the site would make one paragraph of both."""
    text = FENCE.sub("", page.read_text())
    assert not re.search(r"^(?!- |\d+\. | |#)\S.*\n(?:- |\d+\. )", text, re.M)
