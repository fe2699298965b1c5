"""Every test can import `malformed_files` and `reference_decoder`, and draws the same random numbers in every run."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    torch.manual_seed(0)
