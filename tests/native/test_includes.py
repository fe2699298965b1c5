"""Which header may include which, over every `#include` of the tree and without exceptions."""

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
CODERS = {"adaptive", "difference", "huffman", "mixing", "range", "rans", "stored", "text"}
TRAINING = {"quantizers", "methods", "solvers"}
FOLDERS = {"base", "device", "format"} | CODERS | TRAINING
INCLUDE = re.compile(r"^\s*#\s*include\s*[\"<]([^\">]+)[\">]", re.MULTILINE)

# What a header of each folder may include besides its own folder and the standard library.
ALLOWED = {
    "base": set(),
    **{coder: {"base"} for coder in CODERS},
    "format": {"base"} | CODERS,
    "device": {"base", "format"} | CODERS,
    "quantizers": {"base"} | CODERS,
    "methods": {"base"},
    "solvers": {"base"},
}


def folder_of(path):
    """The folder of `metaq` that a header lies in, its own name where it lies in none, and `python` outside."""
    return path.parts[1] if path.parts[0] == "metaq" else path.parts[0]


def includes(sources):
    """(file, what it includes) for every include of the tree's own files, as paths below it."""
    own = {path.relative_to(sources) for path in sources.rglob("*") if path.suffix in {".hpp", ".h", ".cpp"}}
    for path in sorted(own):
        for name in INCLUDE.findall((sources / path).read_text(encoding="utf-8")):
            target = Path(name)
            if target in own:
                yield path, target
            elif target.parts[0] in {"metaq", "python"} or ".." in target.parts or path.parent / target in own:
                yield path, Path("metaq/nowhere") / target


def reached(start, edges):
    """All that a file includes, by others too."""
    found, left = set(), [start]
    while left:
        for target in edges.get(left.pop(), ()):
            if target not in found:
                found.add(target)
                left.append(target)
    return found


def violations(sources):
    edges = {}
    for path, target in includes(sources):
        edges.setdefault(path, set()).add(target)
    found = []
    for path, targets in edges.items():
        for target in sorted(targets):
            if target.parts[:2] == ("metaq", "nowhere"):
                found.append(f"{path}: {target.relative_to('metaq/nowhere')} is no path from src")
            elif path.parts[0] == "metaq" and target.parts[0] != "metaq":
                found.append(f"{path}: {target} lies outside metaq")
            elif folder_of(path) in FOLDERS and folder_of(target) not in ALLOWED[folder_of(path)] | {folder_of(path)}:
                found.append(f"{path}: {folder_of(path)} may not include {target}")
    decoder = Path("metaq/decoder.hpp")
    found += [f"{decoder}: reaches {path}" for path in sorted(reached(decoder, edges)) if folder_of(path) in TRAINING]
    found += [f"{path}: includes itself" for path in sorted(edges) if path in reached(path, edges)]
    return found


def test_the_tree_keeps_the_rules():
    assert violations(SOURCES) == []


def test_every_folder_has_a_rule():
    assert {path.name for path in (SOURCES / "metaq").iterdir() if path.is_dir()} <= FOLDERS


@pytest.fixture
def tree(tmp_path):
    """A function that makes a tree of sources: files by path, with what each includes."""

    def make(**files):
        for path, targets in files.items():
            path = tmp_path / path.replace("__", "/").replace("_hpp", ".hpp").replace("_cpp", ".cpp")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f'#include "{target}"\n' for target in ["vector", *targets]))
        return tmp_path

    return make


def test_a_tree_that_keeps_the_rules(tree):
    sources = tree(
        metaq__base__bits_hpp=[],
        metaq__rans__coder_hpp=["metaq/base/bits.hpp", "metaq/rans/tables.hpp"],
        metaq__rans__tables_hpp=["metaq/base/bits.hpp"],
        metaq__decoder_hpp=["metaq/rans/coder.hpp"],
        metaq__quantizers__rdoq_hpp=["metaq/rans/coder.hpp"],
        python__module_cpp=["metaq/decoder.hpp", "metaq/quantizers/rdoq.hpp", "python/arrays.hpp"],
        python__arrays_hpp=["metaq/base/bits.hpp"],
    )
    assert violations(sources) == []


RANS = {"metaq__rans__coder_hpp": []}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (RANS | {"metaq__base__bits_hpp": ["metaq/rans/coder.hpp"]}, "metaq/base/bits.hpp: base may not include"),
        (RANS | {"metaq__range__coder_hpp": ["metaq/rans/coder.hpp"]}, "metaq/range/coder.hpp: range may not include"),
        (RANS | {"metaq__solvers__a_hpp": ["metaq/rans/coder.hpp"]}, "metaq/solvers/a.hpp: solvers may not include"),
        (
            {"metaq__rans__coder_hpp": ["metaq/format/header.hpp"], "metaq__format__header_hpp": []},
            "metaq/rans/coder.hpp: rans may not include",
        ),
        (
            {"metaq__rans__coder_hpp": ["metaq/quantizers/a.hpp"], "metaq__quantizers__a_hpp": []},
            "metaq/rans/coder.hpp: rans may not include",
        ),
        (RANS | {"metaq__base__bits_hpp": ["python/arrays.hpp"], "python__arrays_hpp": []}, "lies outside metaq"),
        (
            {
                "metaq__decoder_hpp": ["metaq/other.hpp"],
                "metaq__other_hpp": ["metaq/methods/a.hpp"],
                "metaq__methods__a_hpp": [],
            },
            "metaq/decoder.hpp: reaches metaq/methods/a.hpp",
        ),
        ({"metaq__rans__coder_hpp": ["tables.hpp"], "metaq__rans__tables_hpp": []}, "is no path from src"),
        ({"metaq__rans__coder_hpp": ["metaq/rans/none.hpp"]}, "is no path from src"),
        (
            {"metaq__rans__a_hpp": ["metaq/rans/b.hpp"], "metaq__rans__b_hpp": ["metaq/rans/a.hpp"]},
            "metaq/rans/a.hpp: includes itself",
        ),
    ],
)
def test_each_rule_finds_what_breaks_it(tree, files, message):
    assert any(message in found for found in violations(tree(**files)))
