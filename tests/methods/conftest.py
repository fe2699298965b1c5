"""Lets every test here import `contract`, with pytest's account of what its assertions compared."""

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("contract")
sys.path.insert(0, str(Path(__file__).parent))
