"""puller: a backup agent for libvirt/QEMU virtual machines.

>>> import puller
>>> repository = puller.open_repository("s3://backups/kvm", password="…")
>>> point = puller.backup(repository, "web1")
>>> restored = puller.restore(repository, point.point, output="/restore/web1")

docs/python.md is the guide. What this package lists in ``__all__`` is public; the modules below it are not.

Every error is a PullerError with ``message``, ``advice``, ``exit_code`` and ``retryable``. Names are
loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puller.lazy import load

if TYPE_CHECKING:
    from puller.api import (
        ImageFormat,
        KeyRole,
        LockMode,
        add_key,
        alarms,
        backup,
        boot,
        check,
        copy_files,
        copy_points,
        create_repository,
        delete,
        diff,
        discard_booted,
        doctor,
        exercise_store,
        file_versions,
        find_booted,
        find_files,
        forget,
        freeze,
        keep,
        list_booted,
        list_files,
        list_kept,
        list_keys,
        list_points,
        lock_policy,
        mount_files,
        open_repository,
        preview_prune,
        prove,
        prune,
        pull_booted,
        read_configuration,
        read_file,
        recreate,
        release,
        remove_key,
        repair_index,
        repair_versions,
        report,
        restore,
        resume_booted,
        rollback,
        serve,
        set_lock,
        stats,
        status,
    )
    from puller.api.files import (
        CopiedFiles,
        FileListing,
        MountedPoint,
    )
    from puller.backups.forget import (
        Forgotten,
        RemovedBitmap,
    )
    from puller.backups.freeze import (
        Freeze,
        FrozenDisk,
    )
    from puller.cancelling import (
        CancelScope,
    )
    from puller.configuration.alarms import (
        Thresholds,
    )
    from puller.configuration.drills import (
        DrillSettings,
    )
    from puller.configuration.file import (
        Configuration,
        Place,
    )
    from puller.configuration.job import (
        Job,
        JobStep,
        Mode,
        QuiesceMode,
    )
    from puller.configuration.mistakes import (
        ConfigurationError,
        Mistake,
    )
    from puller.configuration.schema import (
        Command,
        Defaults,
        Keep,
    )
    from puller.diagnosis.exercise.exercise import (
        ExerciseReport,
    )
    from puller.diagnosis.exercise.speed import (
        Latency,
        Throughput,
    )
    from puller.diagnosis.finding import (
        Finding,
        Status,
    )
    from puller.errors import (
        AmbiguousPoint,
        ApplianceFailed,
        BaseDamaged,
        CannotDrill,
        CheckpointUnusable,
        ChecksFailed,
        CommandFailed,
        CommitUnreadable,
        ConnectionLost,
        DamagedData,
        DomainExists,
        DomainNotRunning,
        DomainRunning,
        DrillFailed,
        FileUnreadable,
        FleetLost,
        HostUnreachable,
        HypervisorError,
        Interrupted,
        JobLeftOpen,
        JobRunning,
        KeyNotHeld,
        Locked,
        MachinesLate,
        MissingObject,
        MonitorRefused,
        NbdError,
        NoBucket,
        NoFilesystem,
        NoRepository,
        NoSuchDisk,
        NoSuchDomain,
        NoSuchFile,
        NoSuchPoint,
        NotBooted,
        NotEncrypted,
        NotQuiesced,
        NotStartable,
        ObjectChanged,
        ObjectExists,
        ObjectNotFound,
        OutputFailed,
        OutputInUse,
        OutputRefused,
        Overtaken,
        PartialFailure,
        PointKept,
        PullerError,
        PullIncomplete,
        RepositoryError,
        RepositoryExists,
        RollbackUnfinished,
        ScratchFull,
        ServeFailed,
        StagingFull,
        StoreDenied,
        StoreError,
        StoreFull,
        StoreUnavailable,
        UnknownKind,
        UnsupportedByStore,
        UnsupportedDisk,
        UnsupportedFormat,
        UsageError,
        WrongKey,
    )
    from puller.events import (
        Committed,
        DiskDone,
        DiskPlanned,
        DiskProgress,
        Event,
        Kept,
        Notice,
        Observer,
        Step,
    )
    from puller.hypervisor.job.frozen import (
        DiskExport,
    )
    from puller.jobs.batch import (
        Taken,
    )
    from puller.jobs.job import (
        run_job,
    )
    from puller.jobs.report import (
        JobReport,
    )
    from puller.overview.alarm import (
        Alarm,
    )
    from puller.overview.calendar import (
        Day,
    )
    from puller.overview.interval import (
        Interval,
    )
    from puller.overview.machine import (
        MachineStatus,
    )
    from puller.overview.report import (
        HostReport,
        MachineReport,
        Report,
        RepositoryReport,
        Volume,
    )
    from puller.recovery.booting.boot import (
        BootedMachine,
    )
    from puller.recovery.booting.listing import (
        ListedMachine,
    )
    from puller.recovery.booting.record import (
        Booted,
        BootedDisk,
    )
    from puller.recovery.diff import (
        DiskDifference,
        PointDifference,
    )
    from puller.recovery.disk_rollback import (
        RolledBackDisk,
    )
    from puller.recovery.files.copying import (
        CopiedPath,
        SkippedFile,
    )
    from puller.recovery.files.entry import (
        FileEntry,
    )
    from puller.recovery.files.versions import (
        FileVersion,
    )
    from puller.recovery.proving.prove import (
        Drills,
        HeldDrill,
    )
    from puller.recovery.recreation import (
        Recreated,
    )
    from puller.recovery.restore import (
        Restored,
        RestoredDisk,
    )
    from puller.recovery.rollback import (
        RolledBack,
    )
    from puller.recovery.serving.server import (
        Export,
        Server,
    )
    from puller.repository.points import (
        Attachment,
        DataFileRecord,
        DiskRecord,
        ImageRecord,
        Origin,
        Point,
    )
    from puller.repository.reading.damage import (
        Damage,
    )
    from puller.repository.records.lockpolicy import LockPolicy
    from puller.repository.records.proofs import (
        Proof,
    )
    from puller.repository.remembered import (
        Replacement,
    )
    from puller.repository.repository import (
        Repository,
    )
    from puller.repository.selection import (
        Scope,
    )
    from puller.repository.shard import Shard
    from puller.store.options import (
        StoreOptions,
    )
    from puller.upkeep.checking.check import (
        CheckError,
        CheckReport,
    )
    from puller.upkeep.checking.coverage import Uncovered
    from puller.upkeep.copying.copy import (
        CopiedPoint,
        CopyReport,
    )
    from puller.upkeep.keys import (
        Key,
    )
    from puller.upkeep.pruning.prune import (
        PruneReport,
    )
    from puller.upkeep.pruning.sweep import Waiting
    from puller.upkeep.repair import (
        RepairReport,
    )
    from puller.upkeep.retention.keep import (
        KeptPoint,
    )
    from puller.upkeep.retention.policy import (
        Decision,
        Policy,
    )
    from puller.upkeep.stats import (
        Cost,
        Stats,
    )
    from puller.upkeep.versions import VersionsReport

__version__ = "0.1.0"

__all__ = [
    "Alarm",
    "AmbiguousPoint",
    "ApplianceFailed",
    "Attachment",
    "BaseDamaged",
    "Booted",
    "BootedDisk",
    "BootedMachine",
    "CancelScope",
    "CannotDrill",
    "CheckError",
    "CheckReport",
    "CheckpointUnusable",
    "ChecksFailed",
    "Command",
    "CommandFailed",
    "CommitUnreadable",
    "Committed",
    "Configuration",
    "ConfigurationError",
    "ConnectionLost",
    "CopiedFiles",
    "CopiedPath",
    "CopiedPoint",
    "CopyReport",
    "Cost",
    "Damage",
    "DamagedData",
    "DataFileRecord",
    "Day",
    "Decision",
    "Defaults",
    "DiskDifference",
    "DiskDone",
    "DiskExport",
    "DiskPlanned",
    "DiskProgress",
    "DiskRecord",
    "DomainExists",
    "DomainNotRunning",
    "DomainRunning",
    "DrillFailed",
    "DrillSettings",
    "Drills",
    "Event",
    "ExerciseReport",
    "Export",
    "FileEntry",
    "FileListing",
    "FileUnreadable",
    "FileVersion",
    "Finding",
    "FleetLost",
    "Forgotten",
    "Freeze",
    "FrozenDisk",
    "HeldDrill",
    "HostReport",
    "HostUnreachable",
    "HypervisorError",
    "ImageFormat",
    "ImageRecord",
    "Interrupted",
    "Interval",
    "Job",
    "JobLeftOpen",
    "JobReport",
    "JobRunning",
    "JobStep",
    "Keep",
    "Kept",
    "KeptPoint",
    "Key",
    "KeyNotHeld",
    "KeyRole",
    "Latency",
    "ListedMachine",
    "LockMode",
    "LockPolicy",
    "Locked",
    "MachineReport",
    "MachineStatus",
    "MachinesLate",
    "MissingObject",
    "Mistake",
    "Mode",
    "MonitorRefused",
    "MountedPoint",
    "NbdError",
    "NoBucket",
    "NoFilesystem",
    "NoRepository",
    "NoSuchDisk",
    "NoSuchDomain",
    "NoSuchFile",
    "NoSuchPoint",
    "NotBooted",
    "NotEncrypted",
    "NotQuiesced",
    "NotStartable",
    "Notice",
    "ObjectChanged",
    "ObjectExists",
    "ObjectNotFound",
    "Observer",
    "Origin",
    "OutputFailed",
    "OutputInUse",
    "OutputRefused",
    "Overtaken",
    "PartialFailure",
    "Place",
    "Point",
    "PointDifference",
    "PointKept",
    "Policy",
    "Proof",
    "PruneReport",
    "PullIncomplete",
    "PullerError",
    "QuiesceMode",
    "Recreated",
    "RemovedBitmap",
    "RepairReport",
    "Replacement",
    "Report",
    "Repository",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryReport",
    "Restored",
    "RestoredDisk",
    "RollbackUnfinished",
    "RolledBack",
    "RolledBackDisk",
    "Scope",
    "ScratchFull",
    "ServeFailed",
    "Server",
    "Shard",
    "SkippedFile",
    "StagingFull",
    "Stats",
    "Status",
    "Step",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreOptions",
    "StoreUnavailable",
    "Taken",
    "Thresholds",
    "Throughput",
    "Uncovered",
    "UnknownKind",
    "UnsupportedByStore",
    "UnsupportedDisk",
    "UnsupportedFormat",
    "UsageError",
    "VersionsReport",
    "Volume",
    "Waiting",
    "WrongKey",
    "add_key",
    "alarms",
    "backup",
    "boot",
    "check",
    "copy_files",
    "copy_points",
    "create_repository",
    "delete",
    "diff",
    "discard_booted",
    "doctor",
    "exercise_store",
    "file_versions",
    "find_booted",
    "find_files",
    "forget",
    "freeze",
    "keep",
    "list_booted",
    "list_files",
    "list_kept",
    "list_keys",
    "list_points",
    "lock_policy",
    "mount_files",
    "open_repository",
    "preview_prune",
    "prove",
    "prune",
    "pull_booted",
    "read_configuration",
    "read_file",
    "recreate",
    "release",
    "remove_key",
    "repair_index",
    "repair_versions",
    "report",
    "restore",
    "resume_booted",
    "rollback",
    "run_job",
    "serve",
    "set_lock",
    "stats",
    "status",
]

_HOMES = {
    "puller.api": (
        "ImageFormat KeyRole LockMode add_key alarms backup boot check copy_files copy_points "
        "create_repository delete diff discard_booted doctor exercise_store file_versions find_booted "
        "find_files forget freeze keep list_booted list_files list_kept list_keys list_points lock_policy "
        "mount_files open_repository preview_prune prove prune pull_booted read_configuration read_file "
        "recreate release remove_key repair_index repair_versions report restore resume_booted rollback "
        "serve set_lock stats status"
    ),
    "puller.backups.forget": "Forgotten RemovedBitmap",
    "puller.backups.freeze": "Freeze FrozenDisk",
    "puller.cancelling": "CancelScope",
    "puller.configuration.file": "Configuration Place",
    "puller.configuration.job": "Job JobStep Mode QuiesceMode",
    "puller.configuration.mistakes": "ConfigurationError Mistake",
    "puller.configuration.schema": "Command Defaults Keep",
    "puller.diagnosis.exercise.exercise": "ExerciseReport",
    "puller.diagnosis.exercise.speed": "Latency Throughput",
    "puller.diagnosis.finding": "Finding Status",
    "puller.errors": (
        "AmbiguousPoint ApplianceFailed BaseDamaged CannotDrill CheckpointUnusable "
        "ChecksFailed CommandFailed CommitUnreadable ConnectionLost DamagedData DomainExists "
        "DomainNotRunning DomainRunning DrillFailed FileUnreadable FleetLost HostUnreachable "
        "HypervisorError Interrupted JobLeftOpen JobRunning KeyNotHeld Locked MachinesLate MissingObject "
        "MonitorRefused "
        "NbdError NoBucket NoFilesystem NoRepository NoSuchDisk NoSuchDomain NoSuchFile "
        "NoSuchPoint NotBooted NotEncrypted NotQuiesced NotStartable ObjectChanged "
        "ObjectExists ObjectNotFound OutputFailed OutputInUse OutputRefused Overtaken "
        "PartialFailure PointKept PullIncomplete PullerError RepositoryError RepositoryExists "
        "RollbackUnfinished ScratchFull ServeFailed StagingFull StoreDenied StoreError "
        "StoreFull StoreUnavailable UnknownKind UnsupportedByStore UnsupportedDisk "
        "UnsupportedFormat UsageError WrongKey"
    ),
    "puller.events": "Committed DiskDone DiskPlanned DiskProgress Event Kept Notice Observer Step",
    "puller.hypervisor.job.frozen": "DiskExport",
    "puller.overview.interval": "Interval",
    "puller.configuration.alarms": "Thresholds",
    "puller.overview.alarm": "Alarm",
    "puller.overview.calendar": "Day",
    "puller.overview.machine": "MachineStatus",
    "puller.overview.report": "HostReport MachineReport Report RepositoryReport Volume",
    "puller.jobs.batch": "Taken",
    "puller.jobs.job": "run_job",
    "puller.jobs.report": "JobReport",
    "puller.recovery.booting.boot": "BootedMachine",
    "puller.recovery.booting.listing": "ListedMachine",
    "puller.recovery.booting.record": "Booted BootedDisk",
    "puller.recovery.restore": "Restored RestoredDisk",
    "puller.api.files": "CopiedFiles FileListing MountedPoint",
    "puller.recovery.files.copying": "CopiedPath SkippedFile",
    "puller.recovery.files.entry": "FileEntry",
    "puller.recovery.files.versions": "FileVersion",
    "puller.repository.records.lockpolicy": "LockPolicy",
    "puller.repository.points": "Attachment DataFileRecord DiskRecord ImageRecord Origin Point",
    "puller.repository.reading.damage": "Damage",
    "puller.repository.remembered": "Replacement",
    "puller.repository.repository": "Repository",
    "puller.repository.selection": "Scope",
    "puller.repository.shard": "Shard",
    "puller.store.options": "StoreOptions",
    "puller.upkeep.checking.check": "CheckError CheckReport",
    "puller.upkeep.copying.copy": "CopiedPoint CopyReport",
    "puller.upkeep.checking.coverage": "Uncovered",
    "puller.upkeep.retention.keep": "KeptPoint",
    "puller.upkeep.pruning.sweep": "Waiting",
    "puller.upkeep.keys": "Key",
    "puller.upkeep.pruning.prune": "PruneReport",
    "puller.upkeep.repair": "RepairReport",
    "puller.upkeep.versions": "VersionsReport",
    "puller.upkeep.retention.policy": "Decision Policy",
    "puller.upkeep.stats": "Cost Stats",
    "puller.recovery.recreation": "Recreated",
    "puller.recovery.disk_rollback": "RolledBackDisk",
    "puller.recovery.rollback": "RolledBack",
    "puller.recovery.diff": "DiskDifference PointDifference",
    "puller.recovery.serving.server": "Export Server",
    "puller.configuration.drills": "DrillSettings",
    "puller.recovery.proving.prove": "Drills HeldDrill",
    "puller.repository.records.proofs": "Proof",
}
"""The modules that the public names are loaded from."""


if not TYPE_CHECKING:  # else a type checker would take every name for a public one

    def __getattr__(name: str) -> Any:
        return load(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
