"""An NBD server that speaks the protocol and answers as a test tells it to.

Only what libnbd asks for is there: fixed newstyle, structured replies, one metadata context.
See the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

Descriptors = list[tuple[int, int]]
"""(length, flags) of a block status reply."""

_OPTION_REPLY = 0x3E889045565A9
_GO, _STRUCTURED, _SET_CONTEXT = 7, 8, 10
_ACK, _INFO, _META, _UNSUPPORTED = 1, 3, 4, 0x80000001
_READ, _DISCONNECT, _STATUS = 0, 2, 7


class RogueServer:
    """Serves ``size`` bytes on a socket in ``folder``.

    ``status(offset, length)`` gives the descriptors of a block status reply, None for a reply without
    any. Reads are never answered; ``reading`` is set when one has come.
    """

    def __init__(
        self, folder: Path, size: int, status: Callable[[int, int], Descriptors | None] | None = None
    ) -> None:
        self._size = size
        self._status = status
        self.reading = threading.Event()
        self.uri = f"nbd+unix:///?socket={folder / 'rogue'}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "rogue"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        """One client after the other."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream, suppress(BrokenPipeError):
                _Session(self, client, stream.read).run()

    def answer(self, command: int, offset: int, length: int) -> bytes | None:
        """The structured reply to a request, without its handle; None to keep silent."""
        if command == _READ:
            self.reading.set()
            return None
        descriptors = self._status(offset, length) if self._status else None
        if descriptors is None:
            return struct.pack(">HH", 1, 0) + b"%s" + struct.pack(">I", 0)
        payload = struct.pack(">I", 1) + b"".join(struct.pack(">II", *pair) for pair in descriptors)
        return struct.pack(">HH", 1, 5) + b"%s" + struct.pack(">I", len(payload)) + payload

    @property
    def size(self) -> int:
        """Bytes that it claims to hold."""
        return self._size


class _Session:
    """One client's connection."""

    def __init__(self, server: RogueServer, client: socket.socket, read: Callable[[int], bytes]) -> None:
        self._server = server
        self._send = client.sendall
        self._read = read

    def run(self) -> None:
        self._send(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self._read(4)
        while self._negotiate():
            pass
        while self._obey():
            pass

    def _negotiate(self) -> bool:
        """Answer one option; false once transmission begins."""
        _, option, length = struct.unpack(">QII", self._read(16))
        data = self._read(length)
        if option == _SET_CONTEXT:
            start = 4 + struct.unpack_from(">I", data)[0] + 4
            (name_length,) = struct.unpack_from(">I", data, start)
            name = data[start + 4 : start + 4 + name_length]
            self._reply(option, _META, struct.pack(">I", 1) + name)
        elif option == _GO:
            self._reply(option, _INFO, struct.pack(">HQH", 0, self._server.size, 1))
        elif option != _STRUCTURED:
            self._reply(option, _UNSUPPORTED, b"")
            return True
        self._reply(option, _ACK, b"")
        return bool(option != _GO)

    def _reply(self, option: int, kind: int, data: bytes) -> None:
        self._send(struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data)

    def _obey(self) -> bool:
        """Answer one request; false when the client is gone."""
        request = self._read(28)
        if len(request) < 28:
            return False
        _, _, command, handle, offset, length = struct.unpack(">IHH8sQI", request)
        if command == _DISCONNECT:
            return False
        answer = self._server.answer(command, offset, length)
        if answer is not None:
            self._send(struct.pack(">I", 0x668E33EF) + answer.replace(b"%s", handle, 1))
        return True
