"""The commands that help when something goes wrong: what is the matter with this machine, what does an error mean."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from typing import Annotated

import typer

from reactometer import errors as kinds
from reactometer.console import OK, SOME_FAILED


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at this machine and predict a rendered clip: what a report of a fault needs, and what to mend.

    Status 1 where something is wrong. What is secret among the variables is not shown.
    """
    from reactometer.doctor import FINE, WRONG, examine

    findings = []
    for own in examine():
        findings.append(own)
        if not as_json:
            typer.secho(f"{own.state:<5}  {own.name}: {own.told}", fg="red" if own.state == WRONG else None)
            if own.state != FINE:
                typer.echo(f"       {own.remedy}")
    if as_json:
        typer.echo(json.dumps([asdict(own) for own in findings], indent=2))
    wrong = sum(own.state == WRONG for own in findings)
    if not as_json:
        typer.echo(f"{wrong} to mend" if wrong else "nothing is wrong")
    raise typer.Exit(SOME_FAILED if wrong else OK)


def errors(
    kind: Annotated[
        str | None, typer.Argument(help="As the error named it: config, data, media …; default: all.")
    ] = None,
) -> None:
    """What a kind of error means, what usually leads to it, and what to do."""
    known = {name_of(one): one for one in kinds.ReactometerError.__subclasses__()}
    if kind is not None and kind not in known:
        raise kinds.ConfigError(f"no kind of error '{kind}'", fix=kinds.suggestion(kind, known))
    for name, one in known.items():
        if kind in (None, name):
            typer.echo(f"{name}: {inspect.getdoc(one)}\n".replace("``", ""))


def name_of(kind: type[kinds.ReactometerError]) -> str:
    """What the command line calls a kind of error: of ConfigError, "config"."""
    return kind.__name__.removesuffix("Error").lower()
