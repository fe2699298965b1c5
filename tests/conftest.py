"""Lets every test import `malformed_files` and `reference_decoder`, which stand beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
