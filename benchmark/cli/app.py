"""The command line: registers the commands, and turns their errors into messages and exit codes."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from benchmark import __version__
from benchmark.cli import data, extract, extract_names, listing, report, run, ui, weights
from benchmark.cli.help import EXAMPLES, Command, Group, RunCommand, VideosCommand
from benchmark.cli.terminal import WRONG_USAGE, err, escape, out
from benchmark.errors import Unavailable, UsageError
from benchmark.system.files import outside_message
from benchmark.system.output import is_broken_pipe, lasting_output
from benchmark.system.redaction import guard, hidden_traceback, hide, learn_option


class DefaultRun(Group):
    """A group with the default command ``run``, which is used if the first argument is an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h", "--version"):
            args = ["run", *args]
        with _hidden_usage_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _hidden_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _hidden_usage_errors() -> Iterator[None]:
    """Hide secrets in errors of options, which repeat the given values."""
    try:
        yield
    except Exception as error:
        wrong_usage: Any = error
        if hasattr(error, "format_message"):  # an error of click, whose module depends on Typer's version
            wrong_usage.message = hide(wrong_usage.message)
        raise


app = typer.Typer(
    cls=DefaultRun,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Benchmark of audio-visual generalised zero-shot learning. [bold]run[/] is the default command. "
    "[bold]--debug[/] anywhere shows tracebacks.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"gzsl-bench {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options without a command."""


for command in (run.run, run.tune, run.status):
    app.command(cls=RunCommand, epilog=EXAMPLES[command.__name__])(command)
app.command(cls=Command, epilog=EXAMPLES["report"])(report.report)
app.command(cls=Command, name="list", epilog=EXAMPLES["list"])(listing.list_)
for command in (weights.evaluate, weights.export, ui.ui):
    app.command(cls=Command)(command)
data_app = typer.Typer(cls=Group, no_args_is_help=True, help="Import, build, show and check feature files.")
data_app.command(cls=Command, name="import", epilog=EXAMPLES["import"])(data.import_)
for command in (data.build, data.info, data.verify, data.audit):
    data_app.command(cls=Command)(command)
app.add_typer(data_app, name="data")
extract_app = typer.Typer(
    cls=extract.DefaultVideos,
    no_args_is_help=True,
    help="Turn videos into a feature file. [bold]videos[/] is the default command.",
)
extract_app.command(cls=VideosCommand, epilog=EXAMPLES["videos"])(extract.videos)
extract_app.command(cls=Command)(extract_names.names)
extract_app.command(cls=Command, name="weights")(extract_names.weights_)
app.add_typer(extract_app, name="extract")


WORKING = ("run", "tune", "extract")
"""Commands whose work is useful even if their output is lost."""
SHOWING = ("--dry-run", "--help", "-h", "--version")
"""Options with which these commands only print."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors of usage become one message and exit code 2; lost output ends no work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_output() as screen:
        try:
            _main(arguments)
        except SystemExit as end:
            screen.flush()
            if screen.lost is None or is_broken_pipe(screen.lost):
                raise
            reason = getattr(screen.lost, "strerror", None) or screen.lost
            err.print(
                f"[red]error:[/] standard output cannot be written ({reason}); the output is lost",
                soft_wrap=True,
            )
            worked = not arguments or arguments[0].startswith("-") or arguments[0] in WORKING
            worked = worked and not any(option in arguments for option in SHOWING)
            sys.exit(end.code if end.code or worked else WRONG_USAGE)


def _main(arguments: list[str]) -> None:
    from benchmark.system.surroundings import settle

    # --debug is allowed anywhere, and some options have an optional value.
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    without_value = {"--json": "-", "--ablate-protocol": "all", "--ablate-parts": "all"}
    for i, argument in enumerate(arguments):
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument in without_value and following.startswith("-") and following != "-":
            arguments[i] = f"{argument}={without_value[argument]}"

    # Nothing may be shown before secrets are known.
    for before, word in zip(["", *arguments], arguments, strict=False):
        learn_option(before, word)
    guard()
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not debug:
        warnings.filterwarnings("ignore", category=FutureWarning)

    # Run the command; every error becomes one line.
    try:
        settle()
        app(arguments, standalone_mode=True)
    except Exception as error:
        if debug:
            sys.stderr.write(hidden_traceback(error))
        elif isinstance(error, (UsageError, Unavailable)):
            err.print_line(f"[red]error:[/] {escape(str(error))}")
        else:  # an unforeseen error
            reason = outside_message(error) or f"{type(error).__name__}: {error} (--debug shows where)"
            err.print_line(f"[red]error:[/] {escape(reason)}")
        sys.exit(WRONG_USAGE)
