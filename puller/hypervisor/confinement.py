"""Confinement of a domain's QEMU: the user it runs as, and the security models that libvirt applies.

See https://libvirt.org/formatdomain.html#security-label and https://libvirt.org/formatcaps.html.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import subprocess
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puller.errors import HypervisorError
from puller.host import programs
from puller.host.access import LOCAL, HostAccess

_SECONDS = 60.0
"""Seconds that a check of directories may take."""

_ACCESS = 'for folder do test "$0" "$folder" || { printf %s "$folder"; break; }; done'
"""A loop for sh(1) that prints the first directory for which test(1) fails."""


@dataclass(frozen=True, slots=True)
class User:
    """A user and group of this host, by number."""

    uid: int
    gid: int

    def __str__(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"user {self.uid}"

    def groups(self) -> list[int]:
        """Return all groups of a process of the user."""
        try:
            return os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except KeyError:
            return [self.gid]


@dataclass(frozen=True, slots=True)
class Confinement:
    """``user`` is None if libvirt does not say; ``models`` are among ``apparmor`` and ``selinux``."""

    user: User | None
    models: frozenset[str]


def confinement(domain_xml: str, capabilities_xml: str) -> Confinement:
    """Return the confinement of a domain; the XML of a running domain has the labels in use."""
    domain, host = ET.fromstring(domain_xml), ET.fromstring(capabilities_xml)
    labels = {label.get("model"): label for label in domain.findall("seclabel")}
    kind = domain.get("type", "")
    dac = labels.get("dac")
    text = None if dac is None else dac.findtext("label")
    if text is None:
        text = host.findtext(f"./host/secmodel[model='dac']/baselabel[@type='{kind}']")
    models = {model for model in ("apparmor", "selinux") if _applies(host, labels.get(model), model)}
    return Confinement(None if text is None else parse_user(text), frozenset(models))


def parse_user(label: str) -> User | None:
    """Return the user of a DAC label, ``+64055:+107`` or ``libvirt-qemu:kvm``; None if it does not exist."""
    owner, _, group = label.partition(":")
    try:
        uid = int(owner) if owner.lstrip("+").isdigit() else pwd.getpwnam(owner).pw_uid
        gid = int(group) if group.lstrip("+").isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        return None
    return User(uid, gid)


def qemu_user(configuration: Path) -> User | None:
    """Return the user that libvirt runs QEMU as by its ``qemu.conf`` in ``configuration``.

    None if that is the user of this process, as in a session of libvirt's, or cannot be found out.
    """
    if os.geteuid():
        return None
    named = {"user": "", "group": ""}
    with suppress(OSError):
        text = (configuration / "qemu.conf").read_text(errors="replace")
        named |= dict(re.findall(r'^\s*(user|group)\s*=\s*"(.+)"', text, re.MULTILINE))
    for user, group in ((named["user"], named["group"]), *_USUAL):
        if user and (found := parse_user(f"{user}:{group or user}")) is not None:
            return found
    return None


_USUAL = (("libvirt-qemu", "kvm"), ("qemu", "qemu"))
"""Of Debian and of Fedora, whose packages set them when they are built."""


def confines_by_apparmor() -> bool:
    """Return whether AppArmor is enabled on this host. libvirt takes seconds to answer the same."""
    with suppress(OSError):
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    return False


def barred(folder: Path, user: User, host: HostAccess = LOCAL) -> Path | None:
    """Return the first directory on the path to ``folder`` that ``user`` may not traverse, or None.

    The check runs as that user, so that access control lists count. Raises PermissionError if this process
    may not become that user.
    """
    folder = folder.absolute()
    return _first_failing("-x", [*reversed(folder.parents), folder], user, host)


def may_write(folder: Path, user: User, host: HostAccess = LOCAL) -> bool:
    """Return whether ``user`` may create files in ``folder``. Checks as ``barred`` does."""
    return _first_failing("-w", [folder.absolute()], user, host) is None


def _first_failing(test: str, folders: list[Path], user: User, host: HostAccess) -> Path | None:
    command = ["sh", "-c", _ACCESS, test, *map(str, folders)]
    try:
        done = _run_as(user, command) if host is LOCAL else _run_there(user, command, host)
    except subprocess.TimeoutExpired as error:
        raise HypervisorError(
            f"cannot find out whether {user} can reach {folders[-1]}: no answer within {_SECONDS:.0f} s",
            advice="Check that the storage of the directory responds.",
        ) from error
    return Path(os.fsdecode(done.stdout)) if done.stdout else None


def _run_as(user: User, command: list[str]) -> subprocess.CompletedProcess[bytes]:
    become: dict[str, Any] = {}
    if user.uid != os.geteuid():
        become = {"user": user.uid, "group": user.gid, "extra_groups": user.groups()}
    return programs.run(command, _SECONDS, cwd="/", **become)


def _run_there(user: User, command: list[str], host: HostAccess) -> subprocess.CompletedProcess[bytes]:
    become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups", "--"]
    try:
        done = host.run([*become, *command], _SECONDS)
    except FileNotFoundError as error:  # setpriv exits like a shell without the program if it may not
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error
    if done.returncode and not done.stdout:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return done


def _applies(host: ET.Element, label: ET.Element | None, model: str) -> bool:
    """Whether libvirt applies ``model`` and the domain is not exempt from it."""
    on = host.find(f"./host/secmodel[model='{model}']") is not None
    return on and (label is None or label.get("type") != "none")
