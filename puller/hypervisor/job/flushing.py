"""Flushing an image of a running domain: QEMU holds tables of qcow2 images in memory.

libvirt has no call for it. QEMU's monitor has, in the form of a command of ``qemu-io``: see
https://www.qemu.org/docs/master/system/monitor.html.
"""

from __future__ import annotations

import json
from os.path import normpath
from typing import Any

from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.faults import translate


def flush_image(domain: Domain, path: str) -> None:
    """Let QEMU write all that it holds of the qcow2 image at ``path``. Raises HypervisorError."""
    nodes = _ask(domain, path, "query-named-block-nodes", {"flat": True})
    wanted = normpath(path)
    names = [
        node["node-name"] for node in nodes if node["drv"] == "qcow2" and normpath(node["file"]) == wanted
    ]
    if not names:
        raise HypervisorError(f"cannot flush {path}: the QEMU of domain {domain.name} does not have it open")
    for name in names:
        said = _ask(domain, path, "human-monitor-command", {"command-line": f'qemu-io {name} "flush"'})
        if said.strip():
            raise HypervisorError(f"cannot flush {path}: {said.strip()}")


def _ask(domain: Domain, path: str, command: str, arguments: dict[str, Any]) -> Any:
    with translate(f"cannot flush {path}"):
        answer = json.loads(domain.handle.ask_qemu(json.dumps({"execute": command, "arguments": arguments})))
    if "error" in answer:
        raise HypervisorError(f"cannot flush {path}: {command}: {answer['error'].get('desc')}")
    return answer["return"]
