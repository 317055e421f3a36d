"""The door: ``tally COMMAND``. Each command lives in the module of its name; this one wires them and ends errors.

Exit codes: 0 done, 1 the answer is "no", 2 wrong use, config or a refused file, 3 a server can't be reached.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import TallyError
from tally.output import Format, default_format, print_csv, print_json, print_table
from tally.settings import Settings, load_settings

app = typer.Typer(
    name="tally",
    help="Usage events in, right numbers out: counted once, priced once, explained, alerted on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

# Typer carries its own copy of click and exports the leaves of the error tree, not this branch of it.
UsageError = typer.BadParameter.__mro__[1]

FormatOption = Annotated[
    Format | None, typer.Option("--format", help="table, json or csv; a table on a terminal, else json.")
]


@dataclass(frozen=True, slots=True)
class Context:
    """What every command gets: where the settings come from."""

    config: Path | None

    def settings(self) -> Settings:
        """The settings, read when a command first wants them."""
        return load_settings(self.config)


@app.callback()
def entry(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; TALLY_* variables win over it.")] = None,
) -> None:
    """Common options stand before the command: `tally --config tally.yaml worker`."""
    context.obj = Context(config)


@app.command("config")
def config_command(context: typer.Context, form: FormatOption = None) -> None:
    """Print every setting with its value; secrets are masked.

    Example: tally config --format json
    """
    settings: dict[str, str] = context.obj.settings().masked()
    form = form or default_format()
    if form is Format.JSON:
        print_json(settings)
        return
    rows = [{"setting": name, "value": value} for name, value in settings.items()]
    (print_csv if form is Format.CSV else print_table)(rows, columns=["setting", "value"])


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits; every expected failure is one sentence on stderr."""
    try:
        code = app(arguments, standalone_mode=False)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        hint = f" See `{context.command_path} --help`." if context else ""
        _fail(f"{error.format_message().replace('Value error, ', '')}{hint}", code=2)  # type: ignore[attr-defined]
    except typer.Abort:
        _fail("Interrupted.", code=130)
    except TallyError as error:
        _fail(str(error), code=error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted.", code=130)
    except BrokenPipeError:
        sys.exit(0)
    # Typer turns Exit(code) into the return value when it does not end the process itself.
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, *, code: int) -> None:
    sys.stderr.write(f"tally: {' '.join(sentence.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
