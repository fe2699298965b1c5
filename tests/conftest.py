"""Every test can import `malformed_files` and `reference_decoder`, and draws the same random numbers in every run.

Where there is no GPU, Triton interprets its kernels, which has to be said before it is imported.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    torch.manual_seed(0)
