"""How long a run asks for a libvirt that is gone; the rest is in tests/integration/test_daemon.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from puller.backups.aftermath import HURRY, RETURN, Aftermath
from puller.cancelling import CancelScope
from puller.errors import ConnectionLost, HypervisorError, Interrupted
from puller.events import ignore
from puller.host.access import LOCAL
from puller.hypervisor.connection import Host


class Stop(BaseException):
    """What a signal's handler raises."""


def gone(uri: str, scope: object) -> Any:
    raise HypervisorError(f"cannot connect to libvirt at {uri}")


@pytest.mark.parametrize(
    ("error", "stopped", "limit"),
    [
        (HypervisorError("reset by peer"), False, RETURN),
        (Stop(), False, HURRY),
        (Interrupted("stopped by a signal"), True, HURRY),
        (HypervisorError("reset by peer"), True, HURRY),
    ],
    ids=["lost", "a signal", "a signal in a batch", "lost as a batch is stopped"],
)
def test_a_run_that_a_signal_stops_hurries(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, stopped: bool, limit: float
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(CancelScope, "pause", lambda _, seconds: clock.append(clock.pop() + seconds))
    monkeypatch.setattr(Host, "reach", gone)
    scope = CancelScope()
    host: Any = SimpleNamespace(
        uri="qemu:///system",
        label="libvirt at qemu:///system",
        access=LOCAL,
        is_alive=lambda: False,
        scope=scope,
    )
    domain: Any = SimpleNamespace(name="web1", uuid="u", start_id=lambda: "1")
    if stopped:
        scope.cancel()
    kind = ConnectionLost if isinstance(error, HypervisorError) else type(error)
    with pytest.raises(kind), Aftermath(host, domain, "r", (), ignore):
        raise error
    assert limit <= clock[0] - 1000 < limit + 1
