"""Ceph's S3 server (RGW) on loopback: one monitor, one OSD whose data are in memory, and no manager.

With ``paxos_propose_interval`` of 0.1 s it starts in 3 s, with the default in 12 s: each new pool of RGW
waits for the monitor several times. All of it uses about 130 MiB.
"""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from tests.lab.s3server import ATTEMPTS, READY_SECONDS, S3Server, free_ports, output_of

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# Without authentication, connections cannot be encrypted either, which the monitor's clients ask for.
# A pool without copies is refused unless it is allowed twice.
_SETTINGS = """\
[global]
fsid = {cluster}
mon_initial_members = a
mon_host = v2:127.0.0.1:{monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
paxos_propose_interval = 0.1
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket =
pid_file =
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 8589934592
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = backups={key}
"""

KMS_KEY = "backups"
"""The id of the only key for ``aws:kms``."""


class Ceph(S3Server):
    """A cluster of one host with its gateway. Its data are gone when it stops; ``restart`` keeps them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._disks: list[subprocess.Popen[bytes]] = []
        self._gateway: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """See ``S3Server.endpoint``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def version(self) -> str:
        """See ``S3Server.version``."""
        return output_of("radosgw", "--version").split()[2].partition("+")[0]

    def start(self) -> None:
        """See ``S3Server.start``."""
        if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
            pytest.skip(f"Ceph is not installed: {missing[0]} is missing")
        for _ in range(ATTEMPTS):
            if self._starts():
                return
            self.stop()
        raise RuntimeError(f"Ceph does not start:\n{self._log_tail()}")

    def stop(self) -> None:
        """End all of it; memory is freed, and with it the data."""
        for process in [*self._disks, *[self._gateway] * (self._gateway is not None)]:
            assert process is not None
            process.kill()
            process.wait()
        self._disks, self._gateway = [], None

    def restart(self) -> None:
        """Kill the gateway and start it again."""
        assert self._gateway is not None
        self._gateway.kill()
        self._gateway.wait()
        if not self._serves():
            raise RuntimeError(f"Ceph's gateway does not start again:\n{self._log_tail()}")

    def _starts(self) -> bool:
        cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
        monitor = self._prepare(cluster)
        self._tool(
            "monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "monmap"
        )
        self._tool("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._run("ceph-mon", "-i", "a", "-f")
        if not self._answers(
            self._disks[-1], lambda: socket.create_connection(("127.0.0.1", monitor)).close()
        ):
            return False
        self._tool("ceph", "osd", "new", disk)
        self._tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._run("ceph-osd", "-i", "0", "-f")
        for user in (self.access_key, *self.users):
            keys = ["--access-key", user, "--secret", self.secret_key]
            self._tool("radosgw-admin", "user", "create", "--uid", user, "--display-name", user, *keys)
        return self._serves()

    def _prepare(self, cluster: str) -> int:
        """Make an empty folder; return the monitor's port."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir(parents=True)
        monitor, self._port = islice(free_ports(), 2)
        key = base64.b64encode(bytes(range(32))).decode()
        settings = _SETTINGS.format(
            cluster=cluster, monitor=monitor, gateway=self._port, folder=self._folder, key=key
        )
        (self._folder / "ceph.conf").write_text(settings)
        return monitor

    def _run(self, *command: str) -> None:
        self._disks.append(self._spawn(self._with_settings(command)))

    def _serves(self) -> bool:
        self._gateway = self._spawn(self._with_settings(["radosgw", "-n", "client.rgw", "-f"]))
        return self._becomes_ready(self._gateway)

    def _tool(self, *command: str) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(
                self._with_settings(command),
                check=False,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                timeout=READY_SECONDS,
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]} fails:\n{self._log_tail()}")

    def _with_settings(self, command: Sequence[str]) -> list[str]:
        return [command[0], "-c", str(self._folder / "ceph.conf"), *command[1:]]
