"""The command line: all commands, and how they end. A command imports what takes long when it runs."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import click

from eqpot.commands.bench import bench
from eqpot.commands.check import check
from eqpot.commands.evaluate import evaluate
from eqpot.commands.explain import explain
from eqpot.commands.fit import fit
from eqpot.commands.info import info
from eqpot.commands.inspect import inspect
from eqpot.commands.learn import learn
from eqpot.commands.learning_curve import learning_curve
from eqpot.commands.md import md
from eqpot.commands.predict import predict
from eqpot.commands.relax import relax
from eqpot.errors import UserError
from eqpot.stops import answering, interrupt
from eqpot.words import plain


class Imported(click.Group):
    """The commands of a group of the same name in a module, imported when one is asked for."""

    def __init__(self, name: str, module: str, help: str):
        super().__init__(name, help=help)
        self.module = module

    def list_commands(self, context):
        return getattr(import_module(self.module), self.name).list_commands(context)

    def get_command(self, context, name):
        return getattr(import_module(self.module), self.name).get_command(context, name)


class Commands(click.Group):
    """An EOFError, of a damaged file, is an error: click takes it for the end of a user's input."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except EOFError as e:
            raise RuntimeError(f"EOFError: {e}") from e


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eqpot")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Equivariant interatomic potentials: fit one to a data set, evaluate it, use it."""


cli.add_command(
    Imported("data", "eqpot.data_tools.commands", "Convert, describe, split or make a data set; recipes.")
)
cli.add_command(
    Imported("analyze", "eqpot.commands.analyze", "Distances, angles and diffusion in trajectories.")
)
cli.add_command(Imported("lammps", "eqpot.commands.lammps", "Dynamics in LAMMPS: build, first input."))
for command in (
    fit,
    learn,
    learning_curve,
    evaluate,
    info,
    predict,
    relax,
    md,
    check,
    inspect,
    explain,
    bench,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 2 after an error told in one line, 130 after a signal."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before the command has begun, or once more after it was stopped
        return 130


def _main(arguments: list[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    asked: list[bool] = []

    def stop() -> None:
        asked.append(True)
        interrupt()

    with answering(stop), _streams() as (out, _):
        try:
            status = _invoke([word for word in words if word != "--debug"], debug, asked)
            out.flush()
        except KeyboardInterrupt:
            status = 130
        if out.fault is not None and status == 0:
            _complain(f"standard output: cannot be written: {out.fault}; the work itself is done")
            status = 2
    return status


@contextmanager
def _streams() -> Iterator[tuple["_Listened", "_Listened"]]:
    """Standard output and error that stop no work.

    One that was closed (`>&-`) leads nowhere: the next file to be opened would take its number, and get what
    libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout, sys.stderr = (_Listened(nowhere if stream is None else stream) for stream in before)
        try:
            yield sys.stdout, sys.stderr
        finally:
            sys.stdout, sys.stderr = before


class _Listened:
    """A stream that may be closed at the other end, as by `| head`, or full, and may lack a character.

    The work goes on, unheard; `fault` says what was wrong, if it was not that nobody listens.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.fault: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._try(self._stream.write, text) or 0
        except UnicodeEncodeError:  # no Å in ASCII
            encoding = self._stream.encoding
            return self._try(self._stream.write, text.encode(encoding, "replace").decode(encoding)) or 0

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable, *arguments: str) -> Any:
        try:
            return action(*arguments)
        except OSError as e:
            if not isinstance(e, BrokenPipeError):
                self.fault = e.strerror
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _invoke(arguments: list[str], debug: bool, asked: Sequence[bool] = ()) -> int:
    """asked: not empty once a stop was asked for, of which C code that it comes through may make another
    error, and who called that code a damaged file."""
    try:
        return cli.main(arguments, prog_name="eqpot", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message())
        return 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort:
        return 130
    except Exception as e:
        if asked and not isinstance(_first(e), UserError | OSError | MemoryError | click.ClickException):
            return 130
        if debug:
            traceback.print_exc()
        _complain(_one_line(e))
        return 2


def _first(error: BaseException) -> BaseException:
    """What an error was made of."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _complain(text: str) -> None:
    print(f"error: {plain(text)}", file=sys.stderr, flush=True)


LONGEST = 4000  # characters of an error; whole files have been mistaken for names


def _one_line(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        help_line = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        text = error.format_message() + help_line
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error})" if str(error) else "out of memory"
    elif isinstance(error, RecursionError):
        text = "something is nested too deeply (RecursionError); --debug shows where"
    else:
        what = f"{type(error).__name__}: {error}"
        text = f"internal error ({what}); please report it; --debug shows the traceback"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
