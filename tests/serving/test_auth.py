"""What the gate says of a request's headers alone."""

from __future__ import annotations

import pytest

from reactometer.errors import RequestError
from reactometer.serving.auth import check_names


def test_a_name_is_known_in_large_and_small_letters() -> None:
    """Browsers send it in small ones, however an operator has written it."""
    for host in (b"films.example", b"Films.Example:8000"):
        check_names(["Films.example"], {b"host": host})
    check_names(["::1"], {b"host": b"[::1]:8000"})
    with pytest.raises(RequestError, match="another name"):
        check_names(["Films.example"], {b"host": b"films.example.net"})
