"""An NBD connection over TCP: signs of life, and what to do about certificates."""

from __future__ import annotations

import socket

_LINE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 5))
"""A line over TCP that is silent for 30 s is broken: the kernel asks for a sign of life, idle or not."""


def kept_alive(line: socket.socket) -> socket.socket:
    """Let the kernel notice a broken line, if it is one between hosts."""
    if line.family != socket.AF_UNIX:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _LINE:
            line.setsockopt(socket.IPPROTO_TCP, option, value)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return line


CERTIFICATES = (
    "Check that your authority has issued the server's certificate, that it names the host as the URI does, "
    "and that it has not expired."
)
