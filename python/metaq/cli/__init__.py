"""The command line; `main` is what the `metaq` command calls, with or without the libraries that it needs."""

from __future__ import annotations

import os
import signal
import sys

_LIBRARIES = ("typer", "rich")


def main() -> None:
    """Entry point of the `metaq` command."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # whoever ends it so is told how to go on, as by Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import rich  # noqa: F401 - typer does without, tables and bars do not

        from metaq.cli.app import main as run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _LIBRARIES:
            raise
        print(f"metaq: the command line needs {error.name}: pip install 'metaq-nn[cli]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("metaq: stopped", file=sys.stderr, flush=True)
        os._exit(130)
    run()
