"""`python -m metaq`."""

from metaq.cli import main

main()
