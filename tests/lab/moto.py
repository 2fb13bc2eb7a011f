"""moto's S3 server on loopback: a simulation of AWS, with its data in memory."""

from __future__ import annotations

from pathlib import Path

from tests.lab.s3server import SingleServer, output_of, tool


class Moto(SingleServer):
    """It checks neither signatures nor policies."""

    package = "moto[server]"

    @property
    def version(self) -> str:
        """See ``SingleServer.version``."""
        return output_of(
            str(Path(self.program).parent / "python"), "-c", "import moto; print(moto.__version__)"
        )

    @property
    def program(self) -> str:
        """See ``SingleServer.program``."""
        return tool("moto_server")

    def command(self, port: int) -> list[str]:
        """See ``SingleServer.command``."""
        return [self.program, "-H", "127.0.0.1", "-p", str(port)]
