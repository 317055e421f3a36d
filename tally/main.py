"""The entry: ``tally COMMAND``. What can be asked for stands in commands.py; this one wires it and ends errors.

Exit codes: 0 done, 1 the answer is "no", 2 wrong use, config or a refused file, 3 a server can't be reached.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from schemas.errors import TallyError
from tally.commands import Context, add_commands, examples

#: In the order in which one needs them.
ORDER: Final = (
    *("broker", "store", "migrate", "catalog", "rules", "worker", "send", "drain", "report", "reprice", "audit"),
    *("config", "up", "demo"),
)
#: Commands that live in the module that does the work: where, and what `tally --help` says of them.
ELSEWHERE: Final = {
    "report": ("tally.report", "report_app", "Answers from what was counted; each says how complete it is."),
    "reprice": ("tally.reprice", "reprice_command", "Price counted events again, on purpose; shows what changes."),
    "rules": ("tally.backtest", "rules_app", "Rules before they are in force."),
    "demo": ("tally.demo", "demo_command", "Run the whole pipeline once on real sample data."),
    "audit": ("tally.audit", "audit_command", "Prove that every record, total and alert is there and right."),
}

# Typer carries its own copy of click and exports the leaves of the error tree, not this branch of it.
UsageError: Any = typer.BadParameter.__mro__[1]
INTERRUPTED: Final = 130
#: The disk, the quota or the largest file is full, where the answer goes or where servers keep their data.
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Door(TyperGroup):
    """The commands in their order; a module is imported when its command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 -- typer's own context class has no public name
        """All names."""
        _ = ctx
        return list(ORDER)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """The command, imported now if it lives elsewhere."""
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = ELSEWHERE[cmd_name]
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(rich_markup_mode=None)
            single.command(cmd_name)(found)
            found = single
        found._add_completion = False  # noqa: SLF001 -- a group under `tally` has no completion of its own
        command: Any = get_command(found)
        command.name = cmd_name
        for one in (command, *getattr(command, "commands", {}).values()):
            # A raw docstring spells the mark that keeps the lines of its examples.
            one.help = (one.help or "").replace("\\b\n", "\b\n")
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """The command, or which names are near."""
        near = get_close_matches(args[0], ORDER)
        if args[0] not in ORDER and near and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """The list in `tally --help`, without importing what lives elsewhere."""
        _ = ctx
        room = formatter.width - 6 - max(map(len, ORDER))
        rows = [
            (name, ELSEWHERE[name][2] if name in ELSEWHERE else self.commands[name].get_short_help_str(room))
            for name in ORDER
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="tally",
    cls=Door,
    help="Usage events in, right numbers out: counted once, priced once, explained, alerted on.",
    epilog=examples(
        "tally demo",
        "tally send events.ndjson && tally drain",
        "tally report summary --org acme",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
add_commands(app)


def command_summaries() -> list[tuple[str, str]]:
    """Every command with what `tally --help` says of it."""
    group: Any = get_command(app)
    here = {name: (command.help or "").strip().partition("\n")[0] for name, command in group.commands.items()}
    return [(name, ELSEWHERE[name][2] if name in ELSEWHERE else here[name]) for name in ORDER]


def _print_version(asked: bool) -> None:  # noqa: FBT001 -- typer calls it with the flag
    if asked:
        sys.stdout.write(f"tally {version('tallyhouse')}\n")
        raise typer.Exit


@app.callback()
def entry(
    context: typer.Context,
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; TALLY_* variables win over it.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Common options stand before the command: `tally --config tally.yaml worker`."""
    context.obj = context.obj or Context(config)


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits; every expected failure is one sentence on stderr."""
    _open_closed_streams()
    try:
        code = app(arguments, prog_name="tally", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        _fail_usage(error)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except TallyError as error:
        _fail(str(error), code=error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _end_without_reader()
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _drop_what_is_left()
        _fail(f"No more can be written ({error.strerror}): make room, and ask again.", code=2)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer was faster
            _end_without_reader()
        raise
    # Typer gives what the command returned, or the code of typer.Exit.
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Whoever closes stdout or stderr (`tally worker >&-`) wants no words; no socket may get their number either."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _end_without_reader() -> NoReturn:
    """The reader has had enough (`tally report … | head`): no error, and nothing is flushed into the closed pipe."""
    _drop_what_is_left()
    sys.exit(0)


def _drop_what_is_left() -> None:
    """Python flushes stdout once more at its end; what can't be written must not fail there again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _fail_usage(error: Any) -> NoReturn:  # noqa: ANN401 -- see UsageError
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        sys.exit(2)
    hint = f" See `{context.command_path} --help`." if context else ""
    sentence = error.format_message().replace("Value error, ", "").rstrip(".")
    _fail(f"{sentence}.{hint}" if sentence[-1:] not in "?!" else f"{sentence}{hint}", code=2)


def _fail(sentence: str, *, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"tally: {' '.join(sentence.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
