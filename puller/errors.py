"""The one tree of errors.

Rules, for whoever raises or adds one:

* An error is raised where the fact is known, and says that fact in one line: which domain, disk,
  point or object, and what was found. It never ends in a full stop; the command line adds punctuation.
* Each class fixes the exit code (see ``docs/cli.md``), whether trying the same thing again can help,
  and one sentence of advice. An instance may carry better advice than its class.
* An exception of a library never leaves the package that called the library: it is translated here,
  with ``raise ... from error``, so that ``--debug`` still shows the cause.
* Anything outside this tree that reaches the user is a bug in puller, and is reported as one.
"""

from __future__ import annotations

from typing import ClassVar


class PullerError(Exception):
    """Base of all errors that puller raises on purpose.

    ``exit_code`` is the process's exit code, ``retryable`` tells whether the same call may succeed
    later without anyone changing anything, ``advice`` is one sentence that tells the user what to do.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_advice: ClassVar[str] = "Run the same command with --debug and report what it prints."

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice if advice is not None else self.default_advice


class UsageError(PullerError):
    """The request cannot be carried out as it is worded; nothing was touched."""

    exit_code = 2
    default_advice = "See --help of the command."


class OutputRefused(UsageError):
    """The target of a restore exists, is too small or cannot be written; nothing was touched."""

    default_advice = "Choose another --output, or pass --force to replace what is there."


class OutputInUse(OutputRefused):
    """The target of a restore is used by a guest, a mount or a program; nothing was touched."""

    default_advice = "Free it, or choose another --output; --force does not help here."


class OutputFailed(PullerError):
    """A restore could not go on writing: the output is full or failed. The unfinished file is removed."""

    default_advice = "Make room or choose another --output, then restore again."


class Interrupted(PullerError):
    """The user or the service manager asked puller to stop; everything was cleaned up."""

    exit_code = 130
    retryable = True
    default_advice = "Run the same command again when it suits; nothing is left behind."


class PartialFailure(PullerError):
    """Some domains or disks were done and some were not."""

    exit_code = 3
    default_advice = "See the failed ones above; the others are safely stored."


class ChecksFailed(PullerError):
    """``doctor`` found what would make a backup fail."""

    default_advice = "Do what each failed check advises."


class CommandFailed(PullerError):
    """A command that a job runs before or after its backups failed or took too long."""

    default_advice = "Run the command by hand, or correct it in the configuration."


# --- repository -------------------------------------------------------------------------------


class RepositoryError(PullerError):
    """Something about the repository as a whole."""


class NoRepository(RepositoryError):
    """There is no repository at this URL."""

    exit_code = 10
    default_advice = "Check the URL, or create a repository there with 'puller init'."


class RepositoryExists(RepositoryError):
    """There is a repository at this URL already."""

    exit_code = 2
    default_advice = "Use the existing repository, or choose another URL or prefix."


class UnsupportedFormat(RepositoryError):
    """The repository, or an object in it, was written by a newer format than this puller knows."""

    exit_code = 10
    default_advice = "Upgrade puller on this host."


class Locked(RepositoryError):
    """Another run holds what this one needs."""

    exit_code = 11
    retryable = True
    default_advice = "Wait until the other run has ended and try again."


class CommitUnreadable(Locked):
    """What a run is about to commit cannot be read, so prune cannot know what it needs."""

    default_advice = "Prune again later: a run that died is forgotten after a day."


class Overtaken(RepositoryError):
    """Prune may remove data that a run refers to before the run could commit; nothing was committed."""

    exit_code = 11
    retryable = True
    default_advice = "Run the same command again; a run should take less time than prune's --grace."


class WrongKey(RepositoryError):
    """No key slot opens with the given password or key, or none was given."""

    exit_code = 12
    default_advice = (
        "Set PULLER_PASSWORD, PULLER_PASSWORD_FILE or PULLER_KEY_FILE to what opens the repository."
    )


class NotEncrypted(WrongKey):
    """A repository that somebody expects to be encrypted is not: nothing is read from it or stored in it."""

    default_advice = (
        "Give no password or key file if it was made with --no-encryption; else find out who changed it."
    )


class KeyNotHeld(WrongKey):
    """The key that was given may make backups but not read stored guest data."""

    default_advice = "Use a password or key of the full role for this command."


class DamagedData(RepositoryError):
    """Stored bytes are not what was written: truncated, swapped, or altered."""

    exit_code = 13
    default_advice = "Run 'puller check --read-data' to see which points and disks are hurt."


class BaseDamaged(DamagedData):
    """What an incremental run builds upon is damaged: a full one does not need it."""


class UnknownKind(DamagedData):
    """A later version of puller has stored this object for a purpose that this one does not know."""

    default_advice = "Upgrade puller on this host."


class MissingObject(DamagedData):
    """An object that another one refers to is not in the store."""


class PointKept(RepositoryError):
    """A restore point that is to be deleted is held by a keep; nothing was deleted."""

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


# --- store ------------------------------------------------------------------------------------


class StoreError(PullerError):
    """The object store cannot be reached or refuses."""

    exit_code = 14
    default_advice = "Check the repository's URL, credentials and endpoint."


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it cannot serve now."""

    retryable = True
    default_advice = "Check that the store runs and can be reached; the next run goes on from here."


class StoreDenied(StoreError):
    """The store refuses these credentials or this operation."""

    default_advice = "Check the credentials and what their policy allows on this bucket."


class NoBucket(StoreError):
    """The bucket or directory that should hold the repository does not exist."""

    default_advice = "Create the bucket or the directory first, or correct the URL."


class StoreFull(StoreError):
    """No space is left where the repository lives."""

    default_advice = "Free space or prune the repository, then run again."


class UnsupportedByStore(StoreError):
    """The store does not implement the operation or the condition asked for."""

    default_advice = "Use a store with ranged reads and conditional writes, or a directory with hard links."


class ObjectNotFound(StoreError):
    """The object is not in the store. Callers that know what it was for translate it."""


class ObjectExists(StoreError):
    """A put that asks for absence found the object present."""


class ObjectChanged(StoreError):
    """An object went away while it was read, perhaps since prune has put the pack's next generation."""

    retryable = True


# --- hypervisor and NBD -----------------------------------------------------------------------


class HypervisorError(PullerError):
    """libvirt cannot be reached or refuses."""

    exit_code = 15
    default_advice = "Check with virsh on the same URI that libvirt answers and allows this."


class ConnectionLost(HypervisorError):
    """libvirt went away in the midst of a run; what it left open has been ended if libvirt came back."""

    retryable = True
    default_advice = "Run the backup again; the log of libvirt's daemon tells why it ended."


class NoSuchDomain(HypervisorError):
    """libvirt knows no domain of this name."""

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


class DomainRunning(HypervisorError):
    """The domain runs, or will go on from a saved state: its disks must not be changed underneath it."""

    default_advice = "Shut the domain off, then run the same command again."


class RollbackUnfinished(HypervisorError):
    """A rollback of a disk was begun and not completed: the disk is partly old and partly new."""

    default_advice = "Complete the rollback: run 'puller restore POINT --in-place' again."


class UnsupportedDisk(HypervisorError):
    """A disk cannot take part in a backup with a checkpoint."""


class CheckpointUnusable(HypervisorError):
    """A checkpoint is gone, or a dirty bitmap of it is missing or broken."""

    retryable = True
    default_advice = "Run the backup again: the disks without a usable checkpoint are read as a whole."


class JobRunning(HypervisorError):
    """The domain has a backup job open that is not ours to end."""

    exit_code = 11
    retryable = True
    default_advice = "Wait for the other backup, or end it with 'virsh domjobabort' if it is stale."


class JobLeftOpen(HypervisorError):
    """The restore point is stored, but its backup job cannot be ended: the guest goes on paying for it."""

    exit_code = 17
    default_advice = "End the job with 'virsh domjobabort'; the next backup of the domain tries it too."


class NotQuiesced(HypervisorError):
    """The guest's file systems could not be frozen, and a backup without that was not wanted."""

    retryable = True
    default_advice = "Check that the guest agent runs, or back up with --quiesce auto or off."


class ScratchFull(HypervisorError):
    """The scratch space is not large enough for the backup to be safe for the guest."""

    default_advice = "Give more room with --scratch-dir."


class StagingFull(HypervisorError):
    """The staging directory cannot take the images of a push job."""

    default_advice = "Give more room with --staging-dir."


class NbdError(PullerError):
    """The NBD server failed, or sent what the protocol does not allow."""

    exit_code = 15
    retryable = True
    default_advice = "See the libvirt and QEMU logs of this domain; the next run starts afresh."
