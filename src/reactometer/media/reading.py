"""How a file is read and cut, and the doing of it: all that a process needs that decodes for a model elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from reactometer.config import PrepareConfig
from reactometer.errors import MediaError
from reactometer.media.faces import follow_face, load_detector
from reactometer.media.stream import WindowShape, stream_windows
from reactometer.media.tracks import follow_faces
from reactometer.records import PreparedClip

UNREADABLE = (MediaError, cv2.error, MemoryError)
"""What a file that cannot be read brings about."""

FACES = ("one", "all")
"""Whose faces are followed in a file: one person's, or everybody's."""


@dataclass(frozen=True)
class Reading:
    """How files are read and cut."""

    settings: PrepareConfig
    shapes: tuple[WindowShape, ...]  # of the parts first, then of the timeline's windows
    faces: str = "one"  # one of FACES

    def windows(self, path: Path, threads: int = 0) -> Iterator[tuple[WindowShape, PreparedClip]]:
        """Parts and windows of a file, see :func:`reactometer.media.stream.stream_windows`.

        Args:
            path: the file.
            threads: frames that are searched for faces at a time; 0: no thread beside this one.
        """
        follow = partial(follow_face if self.faces == "one" else follow_faces, threads=threads)
        return stream_windows(path, self.settings, load_detector(self.settings.detector), self.shapes, None, follow)


def reason_of(error: BaseException) -> str:
    """What one of ``UNREADABLE`` says, in a line."""
    return " ".join(str(error).split()) or type(error).__name__
