"""`python -m metaq`."""

from metaq.cli.app import main

main()
