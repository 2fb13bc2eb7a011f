"""The example passes the check, and shows every key there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from puller.configuration.drills import DrillSettings
from puller.configuration.evidence import evidence
from puller.configuration.example import example
from puller.configuration.file import decode
from puller.configuration.job import Job
from puller.configuration.schema import Command, Defaults, JobTable, Keep, RepositoryTable, keys


def uncommented() -> str:
    """All keys in force, but for one of two that exclude each other."""
    text = re.sub(r"(?m)^#(?=[a-z\[])", "", example())
    return re.sub(r"(?m)^key-file.*\n", "", text)


def test_it_passes_as_it_is() -> None:
    found = decode(example(), Path("example"))
    job = found.job("nightly")
    assert job.domains == ("web*", "db1")
    assert found.place(job.repository or "").url == "s3://backups/kvm"


def test_every_key_is_in_it_and_arrives() -> None:
    found = decode(uncommented(), Path("example"))
    job = found.job("nightly")
    blank = Job("nightly", ("web*", "db1"))
    unset = {field.name for field in fields(Job) if getattr(job, field.name) == getattr(blank, field.name)}
    assert unset == {"name", "domains"}
    assert all(getattr(job.keep, name) is not None for name in Keep.__struct_fields__)
    assert (found.defaults.progress, found.defaults.verbosity) == ("auto", "normal")
    assert found.prove.evidence_of("web1", "") == evidence("tcp:443")
    blank_drills = DrillSettings()
    shown = {field.name for field in fields(DrillSettings)} - {"parallel"}
    assert all(getattr(found.prove, name) != getattr(blank_drills, name) for name in shown)
    assert job.before is not None
    assert (job.before.command, job.before.timeout) == (["/bin/true"], 600)


def test_every_key_has_its_line_in_it() -> None:
    for table in (RepositoryTable, Defaults, JobTable, Keep, Command):
        for name, (_, key) in keys(table).items():
            assert f"\n{name} = {key.example}" in example().replace("\n#", "\n") or not key.example


def test_a_job_overrides_a_default() -> None:
    text = '[defaults]\nparallel = 3\ntags = { a = "1" }\n[defaults.keep]\ndaily = 7\n'
    job = decode(f'{text}[jobs.a]\ndomains = ["x"]\ntags = {{ b = "2" }}\n', Path("x")).job("a")
    assert (job.parallel, job.tags, job.keep.daily) == (3, {"b": "2"}, 7)
