"""The program ``reactometer``, also run by ``python -m reactometer``."""

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run a command; Ctrl-C ends it without a traceback, also while modules are imported."""
    signal.signal(signal.SIGINT, _interrupt)
    from reactometer.cli.app import main as run_command

    try:
        run_command()
    except KeyboardInterrupt:
        _end()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but end the process during an import, because some imports swallow
    exceptions."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end() -> NoReturn:
    os.write(2, b"stopped\n")
    os._exit(130)  # terminal.INTERRUPTED


if __name__ == "__main__":
    main()
