"""`import metaq` shows the whole API at once and loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import metaq

STUB = Path(metaq.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("name", metaq.__all__)
def test_every_name_is_there(name):
    assert name in dir(metaq)
    found = getattr(metaq, name)
    assert found.__name__ == name
    assert found.__doc__


def test_type_checkers_read_of_the_same_names():
    tree = ast.parse(STUB.read_text())
    imported = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == metaq._MODULES


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'metaq' has no attribute 'MetaQ'"):
        metaq.MetaQ  # noqa: B018


def loaded(statement):
    """Names of the modules that a statement loads in a new process."""
    code = f"import sys; {statement}; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("statement", ["import metaq; metaq.FormatError", "import metaq; dir(metaq)"])
def test_errors_and_names_load_no_torch(statement):
    modules = loaded(statement)
    assert "metaq" in modules
    assert not {"torch", "numpy", "rich", "typer"} & set(modules)


def test_what_is_shown_is_the_api():
    assert {name for name in dir(metaq) if not name.startswith("_")} == set(metaq.__all__)


def test_what_needs_torch_says_how_to_install_it():
    code = "import sys; sys.modules['torch'] = None; import metaq; metaq.compress"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = finished.stderr.strip().splitlines()[-1]
    assert "metaq.compress needs torch: pip install 'metaq-nn[torch]'" in message
