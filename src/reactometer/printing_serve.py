"""What the service says on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from reactometer.console import messages
from reactometer.paths import STARTER

if TYPE_CHECKING:
    from reactometer.serving.routes import Service


def print_serving(service: Service, address: str) -> None:
    """Where it is, what answers there, and who is let in; on standard error."""
    model, settings = service.model, service.settings
    which = "the starter model" if service.folder == STARTER else str(service.folder)
    prepare = model.config.prepare
    messages.print(f"[bold]{address}[/bold]  the page; Ctrl-C ends the service", highlight=False)
    told = f"{which}: {', '.join(model.labels)}; engine {model.engine}, faces by {prepare.detector}"
    messages.print(escape(told), highlight=False)
    if settings.keys:
        messages.print(f"let in: {len(settings.keys)} clients by key", highlight=False)
    elif not any(own in address for own in ("//127.", "//localhost", "//[::1]")):
        messages.print("[yellow]Everybody who reaches this address is let in: name --keys FILE.[/yellow]")
