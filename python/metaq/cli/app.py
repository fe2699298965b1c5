"""The command line. Every failure is one line on standard error and exit code 2; Ctrl-C exits with 130."""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
import time
import traceback
from contextlib import suppress
from typing import Annotated

import typer
from typer.exceptions import TyperException

import metaq
from metaq.cli import checkpoints, experiments, report, sweep, updates
from metaq.cli.bars import StoppedByUserError
from metaq.cli.streams import give_up_output, prepare, say
from metaq.errors import MetaqError
from metaq.report.printable import printable
from metaq.torchrun import launch

# The extra of the distribution that has each module.
_EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "zstandard"), "torch"),
    **dict.fromkeys(("jinja2", "matplotlib", "PIL", "sklearn"), "train"),
    "onnx": "onnx",
    "optuna": "sweep",
    "transformers": "transformers",
}

# What threads, torch's tensors and libraries that are loaded late say for want of memory.
_SIGNS_OF_LITTLE_MEMORY = (
    "can't start new thread",
    "can't allocate memory",
    "out of memory",
    "failed to map segment",
    "error return without exception set",  # Python itself, where not even the error could be made
)

# The first of torchrun's processes has so long to say what is wrong there too, before another one says it.
_GRACE_SECONDS = 10

app = typer.Typer(
    help="Make neural networks small on disk: compress checkpoints, look into .mtq files, train towards small ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Add --debug to any command to see where an error comes from.",
)
for command in (
    *(checkpoints.compress, checkpoints.decompress, checkpoints.export, checkpoints.pack),
    *(updates.delta, updates.apply, updates.fold),
    *(checkpoints.inspect, checkpoints.verify, checkpoints.compare, checkpoints.curve),
    *(experiments.recipes, experiments.train, sweep.sweep, report.report, experiments.evaluate),
    *(experiments.demo, experiments.complexity),
):
    app.command()(command)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"metaq {metaq.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


class _Warnings(logging.Handler):
    """What the library logs, as lines on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


logging.getLogger("metaq").addHandler(_Warnings(logging.WARNING))


def main() -> None:
    """Entry point of the `metaq` command."""
    prepare()
    _allow_many_files()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(arguments, prog_name="metaq", standalone_mode=False)
        if code == 130:
            raise StoppedByUserError("stopped")
        sys.stdout.flush()
    except (StoppedByUserError, KeyboardInterrupt) as stop:
        if launch().is_first:
            say(str(stop) or "stopped")
        # Python would end itself by the signal if that once hit code run from a string, as in imports, caught or not.
        os._exit(130)
    except BrokenPipeError:
        give_up_output()  # nobody reads on
        code = 1
    except Exception as error:
        if not launch().is_first:
            time.sleep(_GRACE_SECONDS)
        if is_debug:
            print("\n".join(map(printable, traceback.format_exc().splitlines())), file=sys.stderr)
        message = _message(error, next((argument for argument in arguments if not argument.startswith("-")), ""))
        if message:
            say(message)
        give_up_output()
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _allow_many_files() -> None:
    """As many open files as the system lets the process have: folders of `.mtq` shards are mapped as a whole."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _message(error: Exception, command: str) -> str:
    """What went wrong, for a person; empty where typer has said it."""
    if isinstance(error, TyperException):
        context, message = getattr(error, "ctx", None), error.format_message()
        return message and message + (f" See {context.command_path} --help." if context else "")
    if isinstance(error, ModuleNotFoundError):
        module = str(error.name).partition(".")[0]
        if module in _EXTRAS:
            return f"metaq {command} needs {module}: pip install 'metaq-nn[{_EXTRAS[module]}]'"
    if _lacks_memory(error):
        found = str(error) or "none left"
        return f"metaq {command}: expected more memory, found {found}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: expected a file that can be used, found {error.strerror}"
    if isinstance(error, MetaqError | OSError):
        return str(error) or type(error).__name__
    found = f"{type(error).__name__}: {error}"
    return f"metaq {command}: expected no error of this kind, found {found}; please report what --debug says of it"


def _lacks_memory(error: Exception) -> bool:
    """Whether memory has come to its end, which libraries say in errors of many kinds."""
    if isinstance(error, MetaqError):
        return False
    is_told = any(sign in str(error) for sign in _SIGNS_OF_LITTLE_MEMORY)
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or is_told
