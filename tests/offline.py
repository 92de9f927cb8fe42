"""No test reaches the network: a connection to anywhere but this machine raises."""

import socket
from typing import Any


def guard() -> None:
    """Refuse every connection that is not to the loopback interface."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    socket.socket.connect = checked  # type: ignore[method-assign]  # that is the point
