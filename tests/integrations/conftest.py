"""Programs of their own, and what they and the tests here import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import python_on

HERE = str(Path(__file__).parent)

pytest.register_assert_rewrite("small_trainer")
sys.path.insert(0, HERE)


@pytest.fixture
def run_program(tmp_path):
    """Runs a program's text, which may import what stands in this folder; returns what it has printed.

    Its first argument is the test's folder.
    """

    def run(text, *arguments, processes=1, **environment):
        program = tmp_path / "program.py"
        program.write_text(text)
        places = os.pathsep.join([HERE, *filter(None, map(os.path.abspath, sys.path))])
        finished = subprocess.run(
            [*python_on(processes), str(program), str(tmp_path), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": places} | environment,
            timeout=600,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run
