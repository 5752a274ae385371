"""The command that looks at this machine: parse, look, print each thing as soon as it is known."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

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
