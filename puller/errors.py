"""The single tree of errors.

Rules, for whoever raises or adds one:

* An error is raised where the fact is known, and states that fact in one line: which domain, disk,
  point or object, and what was found. It never ends in a full stop; the command line adds punctuation.
* Each class fixes the exit code (see ``docs/cli.md``), whether a retry can help, and one sentence of
  advice. An instance may carry better advice than its class.
* An exception of a library never leaves the package that called the library: it is translated here,
  with ``raise ... from error``, so that ``--debug`` still shows the cause.
* Anything outside this tree that reaches the user is a bug in puller, and is reported as one.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PullerError(Exception):
    """Base of all errors that puller raises on purpose.

    Attributes:
        exit_code: Exit code of the process.
        retryable: Whether the same call may succeed later with nothing changed.
        message: One line that states the fact, without a full stop.
        advice: One sentence that tells the user what to do.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_advice: ClassVar[str] = "Run the same command with --debug and report what it prints."

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice if advice is not None else self.default_advice

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes whole, whatever the arguments of the class are."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[PullerError], arguments: tuple[Any, ...], state: dict[str, Any]) -> PullerError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class UsageError(PullerError):
    """The request cannot be carried out as it is worded; nothing was touched."""

    exit_code = 2
    default_advice = "Correct the argument that the message names."


class OutputRefused(UsageError):
    """The target of a restore exists, is too small or cannot be written; nothing was touched."""

    default_advice = "Choose another --output, or pass --force to replace what is there."


class OutputInUse(OutputRefused):
    """The target of a restore is used by a guest, a mount or a program; nothing was touched."""

    default_advice = "Free it, or choose another --output; --force does not help here."


class OutputFailed(PullerError):
    """A restore could not finish writing: the output is full or failed. The unfinished file is removed."""

    default_advice = "Make room or choose another --output, then restore again."


class ServeFailed(PullerError):
    """The NBD server of a restore point cannot start, or has ended by itself."""

    retryable = True
    default_advice = "Correct the cause that nbdkit's message names, then run the command again."


class Interrupted(PullerError):
    """The user or the service manager asked puller to stop; everything was cleaned up."""

    exit_code = 130
    retryable = True
    default_advice = "Run the same command again; the interrupted run left nothing behind."


class PartialFailure(PullerError):
    """Some domains or disks succeeded and some failed."""

    exit_code = 3
    default_advice = "See the errors above; the others are stored."


class ChecksFailed(PullerError):
    """``doctor`` found problems that would make a backup fail."""

    default_advice = "Follow the advice of each failed check."


class CannotDrill(PullerError):
    """A machine cannot be started for a drill on this host; nothing is said about its backup."""

    default_advice = "Run the drill on a host like the one that the machine ran on."


class NotStartable(CannotDrill):
    """This host, or its libvirt, cannot start the machine; its file systems can still be checked."""


class DrillFailed(PullerError):
    """A restore drill was held, and the machine gave no evidence that it had started."""

    default_advice = "Run 'puller show' for the point: it has the reason, the console's end and the screen."


class MachinesLate(PullerError):
    """Machines should have had a newer restore point by now."""

    default_advice = (
        "Read the job's journal on the host of the machine, or leave the machine out with --exclude."
    )


class FleetLost(PullerError):
    """The engine or the workers of a fleet are gone and did not come back. What was done is recorded."""

    retryable = True
    default_advice = "Read the logs of the scheduler and of the workers, then run the same command again."


class WorkerLost(PullerError):
    """The process that backed up a domain of a job ended before it answered. The next run cleans up."""

    retryable = True
    default_advice = (
        "Run the job again: it ends the backup job that was left open. If the kernel killed the process, "
        "lower the job's 'parallel' or give the host more memory."
    )


class CommandFailed(PullerError):
    """A command that a job or a freeze runs failed or took too long."""

    default_advice = "Find the cause in the output of the command, and correct the command."


class ApplianceFailed(PullerError):
    """libguestfs is missing, or its appliance does not start or does not answer."""

    default_advice = "Run 'libguestfs-test-tool' to see why, and 'puller doctor' for what is missing."


# --- repository -------------------------------------------------------------------------------


class RepositoryError(PullerError):
    """Base of the errors of a repository and of the objects in it."""


class NoRepository(RepositoryError):
    """There is no repository at this URL."""

    exit_code = 10
    default_advice = "Check the URL, or create a repository there with 'puller init'."


class RepositoryExists(RepositoryError):
    """A repository already exists at this URL."""

    exit_code = 2
    default_advice = "Use the existing repository, or choose another URL or prefix."


class UnsupportedFormat(RepositoryError):
    """The repository, or an object in it, was written by a newer format than this puller knows."""

    exit_code = 10
    default_advice = "Upgrade puller on this host."


class Locked(RepositoryError):
    """Another run holds a lock that this one needs."""

    exit_code = 11
    retryable = True
    default_advice = "Wait until the other run has ended, then try again."


class CommitUnreadable(Locked):
    """A run's pending commit cannot be read, so prune cannot know which data the run needs."""

    default_advice = "Prune again later: the pending commit of a run that died is ignored after a day."


class Overtaken(RepositoryError):
    """Prune may delete data that a run refers to before the run commits; nothing was committed."""

    exit_code = 11
    retryable = True
    default_advice = "Run the same command again; choose a --grace for prune that is longer than any run."


class WrongKey(RepositoryError):
    """No key slot opens with the given password or key, or none was given."""

    exit_code = 12
    default_advice = (
        "Set PULLER_PASSWORD, PULLER_PASSWORD_FILE or PULLER_KEY_FILE to a key of the repository."
    )


class NotEncrypted(WrongKey):
    """A key was given, but the repository is not encrypted; nothing was read from it or stored in it."""

    default_advice = (
        "Omit the key if the repository was created with --no-encryption; else find out who changed it."
    )


class KeyNotHeld(WrongKey):
    """The given key may make backups but not read stored guest data."""

    default_advice = "Use a password or key file whose role is full."


class DamagedData(RepositoryError):
    """Stored bytes differ from the bytes that were written: truncated, swapped, or altered."""

    exit_code = 13
    default_advice = "Run 'puller check --read-data' to see which points and disks are damaged."


class BaseDamaged(DamagedData):
    """The base of an incremental backup is damaged; a full backup does not need it."""


class UnknownKind(DamagedData):
    """A newer puller stored this object for a purpose that this version does not know."""

    default_advice = "Upgrade puller on this host."


class MissingObject(DamagedData):
    """An object that another object refers to is not in the store."""


class PointKept(RepositoryError):
    """A keep or a lock protects a restore point that was to be deleted; nothing was deleted."""

    exit_code = 2
    default_advice = "Run 'puller release' for the point first."


class NoSuchPoint(RepositoryError):
    """No restore point matches."""

    exit_code = 16
    default_advice = "List the restore points with 'puller points'."


class AmbiguousPoint(RepositoryError):
    """A prefix matches more than one restore point."""

    exit_code = 16
    default_advice = "Give more characters of the id; 'puller points' lists them."


class NoSuchFile(RepositoryError):
    """A restore point has no file or directory of this path."""

    exit_code = 16
    default_advice = "List a directory with 'puller ls', or search with 'puller find'."


class NoFilesystem(RepositoryError):
    """A restore point has no file system that can be shown, or several to choose from."""

    exit_code = 16
    default_advice = "Choose a file system with --filesystem."


class FileUnreadable(RepositoryError):
    """A guest's file or directory cannot be read, as its file system or stored data is damaged."""

    exit_code = 13
    default_advice = (
        "Run 'puller check --read-data'; if it finds nothing, the guest's file system is damaged."
    )


# --- store ------------------------------------------------------------------------------------


class StoreError(PullerError):
    """The object store cannot be reached or refuses the request."""

    exit_code = 14
    default_advice = "Check the repository's URL, credentials and endpoint."


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it is unavailable."""

    retryable = True
    default_advice = "Check that the store runs and can be reached; the next run continues from here."


class StoreDenied(StoreError):
    """The store refuses these credentials or this operation."""

    default_advice = "Check the credentials and the permissions that their policy grants on this bucket."


class NoBucket(StoreError):
    """The bucket or directory that should hold the repository does not exist."""

    default_advice = "Create the bucket or the directory first, or correct the URL."


class StoreFull(StoreError):
    """The store has no space left."""

    default_advice = "Free space or prune the repository, then run again."


class UnsupportedByStore(StoreError):
    """The store does not implement the operation or the condition asked for."""

    default_advice = "Use a store with ranged reads and conditional writes, or a directory with hard links."


class ObjectNotFound(StoreError):
    """The object is not in the store. Callers that know its purpose translate this error."""


class ObjectExists(StoreError):
    """The object to be created exists already."""


class ObjectChanged(StoreError):
    """An object was deleted while it was read, perhaps because prune stored the pack's next generation."""

    retryable = True


# --- hypervisor and NBD -----------------------------------------------------------------------


class HypervisorError(PullerError):
    """libvirt cannot be reached or refuses the request."""

    exit_code = 15
    default_advice = "Check with virsh on the same URI that libvirt answers and allows this."


class ConnectionLost(HypervisorError):
    """The connection to libvirt was lost during a run. The run's job is ended if libvirt came back."""

    retryable = True
    default_advice = "Run the backup again; see the log of libvirt's daemon for the reason."


class MonitorRefused(HypervisorError):
    """QEMU without libvirt has answered a command with an error; ``reason`` are its words."""

    default_advice = (
        "See what QEMU says, and 'QEMU without libvirt' in the documents for what puller does in it."
    )

    def __init__(self, message: str, reason: str = "", *, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.reason = reason


class HostUnreachable(HypervisorError):
    """The host of a remote libvirt cannot be reached, or the line to it broke."""

    retryable = True
    default_advice = "Check that the network is up and that 'ssh' to the host works without a password."


class NoSuchDomain(HypervisorError):
    """libvirt has no domain of this name."""

    exit_code = 16
    default_advice = "List the domains with 'virsh list --all'."


class NoSuchDisk(HypervisorError):
    """The domain or restore point has no disk of this target name."""

    exit_code = 16
    default_advice = "Name a disk by its target, such as vda."


class DomainNotRunning(HypervisorError):
    """The domain is not in a state in which libvirt can back it up."""

    default_advice = "Start the domain, then run the backup again."


class DomainExists(UsageError):
    """libvirt has a domain of the name or UUID that is to be defined; nothing was touched."""

    default_advice = "Give the copy another name with --name, or roll the domain back with --in-place."


class NotBooted(HypervisorError):
    """puller has booted no machine of this name from a restore point."""

    exit_code = 16
    default_advice = "List the booted machines with 'puller boot --list'."


class PullIncomplete(HypervisorError):
    """A booted machine runs, but part of its data could not be pulled: it still needs its image server."""

    default_advice = "Run 'puller boot --resume NAME --keep' to try again; the machine runs on meanwhile."


class DomainRunning(HypervisorError):
    """The domain runs, or will go on from a saved state: its disks must not be changed underneath it."""

    default_advice = "Shut the domain off, then run the same command again."


class RollbackUnfinished(HypervisorError):
    """A rollback of a disk was begun and not completed: the disk is partly old and partly new."""

    default_advice = "Complete the rollback: run 'puller restore POINT --in-place' again."


class UnsupportedDisk(HypervisorError):
    """A disk cannot be backed up."""


class CheckpointUnusable(HypervisorError):
    """A checkpoint is gone, or one of its dirty bitmaps is missing or inconsistent."""

    retryable = True
    default_advice = "Run the backup again: it reads all data of the disks without a usable checkpoint."


class JobRunning(HypervisorError):
    """The domain has an open backup job that puller may not end."""

    exit_code = 11
    retryable = True
    default_advice = "Wait for the other backup, or end it with 'virsh domjobabort' if it is stale."


class JobLeftOpen(HypervisorError):
    """The restore point is stored, but its backup job cannot be ended and goes on slowing the guest."""

    exit_code = 17
    default_advice = "End the job with 'virsh domjobabort'; the next backup of the domain also tries to."


class NotQuiesced(HypervisorError):
    """The guest's file systems could not be frozen, and ``quiesce`` is ``on``."""

    retryable = True
    default_advice = "Check that the guest agent runs, or back up with --quiesce auto or off."


class ScratchFull(HypervisorError):
    """The scratch directory has too little space for a backup that is safe for the guest."""

    default_advice = "Choose a directory with more space with --scratch-dir."


class StagingFull(HypervisorError):
    """The staging directory has too little space for the images of a push job."""

    default_advice = "Choose a directory with more space with --staging-dir."


class NbdError(PullerError):
    """The NBD server failed or violated the protocol."""

    exit_code = 15
    retryable = True
    default_advice = "See the logs of libvirt and QEMU for this domain, then run the command again."
