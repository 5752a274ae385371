"""Run ``reactometer`` as forks of one process that has imported it, so that many commands pay for the imports
once.

Each command has its own process with its own arguments, folder, environment, and standard streams.
``PROGRAM`` asks for
one: it passes signals on, and ends with the command's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST_BYTES = 2**17
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect({address!r})
socket.send_fds(connection, [json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
process = int(connection.recv(100))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
sys.exit(int(connection.recv(100)))
"""


@contextmanager
def warm_program(folder: Path) -> Iterator[str]:
    """Start the process; yields the text of the program."""
    address = str(folder / "warm")
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline()
            yield PROGRAM.format(python=sys.executable, address=address)
        finally:
            process.kill()


def _serve(address: str) -> None:
    import reactometer.evaluation.evaluate
    import reactometer.inference.predictor
    import reactometer.training.train  # noqa: F401
    from reactometer.cli.app import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(8)
        print("listens", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                content, streams, _, _ = socket.recv_fds(connection, LARGEST_BYTES, 3)
                if (process := os.fork()) == 0:
                    listening.close()
                    connection.close()
                    arguments, folder, environment = json.loads(content)
                    _become(arguments, folder, environment, streams)
                    main()
                connection.send(str(process).encode())
                connection.send(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode())
                os._exit(0)
            connection.close()


def _become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["reactometer", *arguments]


if __name__ == "__main__":
    _serve(sys.argv[1])
