"""The files of a checkpoint replace those of another one: all of them, or none.

Files that are complete under temporary names are renamed. Whenever that is interrupted
or killed, the old checkpoint is there or the new one: where a new data file takes the
name of an old one, the old checkpoint goes on under other names meanwhile.

    old:   m.index   m.data-0-of-1      new:   m.tempstate….index  m.tempstate….data

    1. m.data-0-of-1 is linked to m.data-0-of-2, and m.index to m.tempstate….old
    2. m.tempstate….old.index -> m.index         the old one, in m.data-0-of-2
    3. m.tempstate….data      -> m.data-0-of-1
    4. m.tempstate….index     -> m.index         the new one
    5. what is left of the old checkpoint is removed

File systems without links have no second names. There is a moment without a checkpoint
there, which is kept short: nothing is written, synced or removed in it, and interrupts
wait for its end.

    2. m.index                -> m.tempstate….old     the moment begins
    3. m.tempstate….data      -> m.data-0-of-1
    4. m.tempstate….index     -> m.index              the moment ends

Where the system refuses a rename, the others are undone.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import fcntl
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

from .bridges import Bridge, FindOtherNames
from .writing import remove

# How often a system call is tried that an exception of a signal handler ends.
_MAX_TRIES: Final = 3
# Age from which a save removes temporary files of the same prefix: the save that made
# them was killed. Younger ones may belong to another process (seconds).
_STALE_S: Final = 24 * 3600.0
# An exchange takes milliseconds; who holds the lock for longer does something else
# (seconds).
_MAX_WAITING_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.001
# How often a waiting thread looks whether the job has ended, in case a signal made it
# miss the end (seconds).
_LOOK_UP_S: Final = 0.1
# How the names of the files of a checkpoint go on, and those of a save under way.
MEMBER: Final = re.compile(r"(\.index|\.data-\d{5}-of-\d{5})?")
_TEMPORARY: Final = re.compile(
    r"\.tempstate[0-9a-f]{16}(\.old)?(\.index|\.data-\d{5}-of-\d{5})?"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """Files that replace those of a checkpoint.

    Attributes:
        prefix: Path of the checkpoint, without suffix.
        temporary: Path of the new files until then, without suffix.
        suffixes: Suffixes of the new data files.
        find_names: What the old checkpoint may be called meanwhile; None for nothing.
        interrupts: Exceptions of signal handlers; raised when all is done.
        leftovers: Files that should go and that the system does not remove, and why.
            No checkpoint needs them, so that an exchange goes on without.
    """

    prefix: str
    temporary: str
    suffixes: tuple[str, ...]
    find_names: FindOtherNames | None = None
    interrupts: list[BaseException] = dataclasses.field(
        default_factory=list[BaseException]
    )
    leftovers: dict[str, OSError] = dataclasses.field(
        default_factory=dict[str, OSError]
    )

    def run(self) -> None:
        """Renames the new files and removes the old ones.

        Raises:
            OSError: The system refuses; the message says what is there now. Never once
                the new index is in its place: `leftovers` has what went wrong then.
            KeyboardInterrupt: It came meanwhile, and everything is done. Likewise
                anything else that a signal handler raises.
        """
        uninterrupted(self._run_alone, self.interrupts)

    def discard(self) -> None:
        """Removes the new files."""
        for suffix in (*self.suffixes, ".index"):
            self.remove(f"{self.temporary}{suffix}")

    def _run_alone(self) -> None:
        """Runs while no other process exchanges files in the same directory.

        Otherwise the index of one could end up beside the data of the other.
        """
        with locked(os.path.dirname(self.prefix)):
            self._run(frozenset(existing_files(self.prefix)))

    def _run(self, old: frozenset[str]) -> None:
        index = f"{self.prefix}.index"
        # By name, since not every directory that can be written can be listed.
        shared = [s for s in self.suffixes if os.path.lexists(f"{self.prefix}{s}")]
        is_hiding = bool(shared) and os.path.lexists(index)
        bridge = Bridge(self.prefix, self._aside(), self.remove)
        kept: dict[str, str] = {}
        undo: list[Callable[[], None]] = []
        try:
            if is_hiding:
                bridge.build(self.find_names)
                kept = bridge.names or self._kept(shared)
                self._hide(bridge)
                undo.append(lambda: self._bring_back(bridge))
            for suffix in self.suffixes:
                self._rename(f"{self.temporary}{suffix}", f"{self.prefix}{suffix}")
                undo.append(self._undo_of(suffix, kept.get(suffix)))
            self._rename(f"{self.temporary}.index", index)
            # The new index replaced the old one, or that of the bridge, in one step.
            bridge.is_used = False
        except OSError as error:
            # Data that was replaced and has no second name cannot come back.
            is_lost = is_hiding and len(undo) > 1 and len(kept) < len(shared)
            is_lost = is_lost and not bridge.names
            state = self._undo_all(undo, bridge, is_hiding=is_hiding, is_lost=is_lost)
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"{reason}{state}") from error
        except BaseException:
            self.discard()
            raise
        finally:
            bridge.clear()
            for path in () if bridge.names else kept.values():
                self.remove(path)
        self.remove(self._aside())
        new = {f"{self.prefix}{suffix}" for suffix in (*self.suffixes, ".index")}
        for path in sorted(old - new):
            self.remove(path)

    def _aside(self, suffix: str = "") -> str:
        """Path of an old file until all is done; no reader looks there."""
        return f"{self.temporary}.old{suffix}"

    def _hide(self, bridge: Bridge) -> None:
        """Makes the index name no file that is going to be replaced."""
        index = f"{self.prefix}.index"
        if bridge.names:
            self._rename(bridge.index, index)
            bridge.is_used = True
        else:  # the moment begins: data without an index is no checkpoint
            self._rename(index, self._aside())

    def _bring_back(self, bridge: Bridge) -> None:
        """Undoes `_hide`."""
        self._rename(self._aside(), f"{self.prefix}.index")
        bridge.is_used = False

    def _kept(self, suffixes: Sequence[str]) -> dict[str, str]:
        """Gives old data files a second name, where the file system knows links.

        Returns:
            Suffixes of those that have one -> these names.
        """
        kept: dict[str, str] = {}
        for suffix in suffixes:
            try:
                os.link(f"{self.prefix}{suffix}", self._aside(suffix))
            except OSError:
                break
            kept[suffix] = self._aside(suffix)
        return kept

    def _undo_of(self, suffix: str, kept: str | None) -> Callable[[], None]:
        def undo() -> None:
            self._rename(f"{self.prefix}{suffix}", f"{self.temporary}{suffix}")
            if kept is not None:
                os.link(kept, f"{self.prefix}{suffix}")

        return undo

    def _undo_all(
        self,
        undo: list[Callable[[], None]],
        bridge: Bridge,
        *,
        is_hiding: bool,
        is_lost: bool,
    ) -> str:
        """Undoes the renames; returns what is there then, to end a message.

        Where old data is lost, the new files still go back to their temporary names:
        there they are whole.
        """
        steps = undo[1:] if is_lost else [*undo]
        try:
            while steps:
                steps[-1]()
                steps.pop()
        except OSError as failure:
            state = self._describe_half(bridge, is_hiding=is_hiding)
            # All data is back: only the old index is not.
            if steps == undo[:1] and is_hiding and not bridge.is_used:
                state = (
                    f"rename `{self._aside()}` to `{self.prefix}.index`, and what was "
                    f"there opens again; the new checkpoint is at `{self.temporary}`"
                )
            return f", then {failure.strerror}: {state}"
        if is_lost:
            self.remove(self._aside())
            return (
                "; the old checkpoint is lost, and the new one is whole at "
                f"`{self.temporary}`"
            )
        self.discard()
        return "; what was there is still there"

    def _describe_half(self, bridge: Bridge, *, is_hiding: bool) -> str:
        """Says what is there where some renames could not be undone."""
        if bridge.is_used:
            return "what was there is still there, in data files of other names"
        if is_hiding:
            return (
                "files of the old and of the new checkpoint lie at "
                f"`{self.prefix}` and `{self.temporary}`, and none of them opens"
            )
        # No new file has the name of an old one.
        return (
            "what was there is still there, and files of the new checkpoint lie at "
            f"`{self.prefix}` and `{self.temporary}`"
        )

    def _rename(self, source: str, target: str) -> None:
        """Renames a file, whatever signal handlers raise meanwhile."""
        for attempt in range(_MAX_TRIES):
            try:
                # Two names of one system call; tests patch `replace`.
                (os.rename if attempt else os.replace)(source, target)
            except FileNotFoundError:
                if attempt and not os.path.lexists(source):
                    return  # the attempt before was interrupted after it was done
                raise
            except OSError:
                raise
            except BaseException as error:
                self.interrupts.append(error)
            else:
                return
        raise OSError(None, f"`{source}` could not be renamed for interrupts")

    def remove(self, path: str) -> None:
        """Removes a file, whatever signal handlers raise meanwhile.

        What the system does not remove, it notes.
        """
        for _ in range(_MAX_TRIES):
            try:
                remove(path)
            except OSError as error:
                self.leftovers[path] = error
                return
            except BaseException as error:
                self.interrupts.append(error)
            else:
                return


@contextlib.contextmanager
def locked(directory: str) -> Generator[None]:
    """Makes other saves in a directory wait, where its file system has locks.

    NFS has none for directories.
    """
    try:
        descriptor = os.open(directory or ".", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it cannot be read, or too many files are open
        yield
        return
    try:
        deadline = time.monotonic() + _MAX_WAITING_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK_AGAIN_S)
            except OSError:  # it has no locks
                break
            else:
                break
        yield
    finally:
        # Closing is not enough: a process forked meanwhile holds the lock, too.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def uninterrupted(
    job: Callable[[], None], interrupts: list[BaseException] | None = None
) -> None:
    """Runs a job to its end, whatever signal handlers raise meanwhile.

    The job runs in another thread, since signal handlers run only in the main thread.

    Args:
        job: The job.
        interrupts: Exceptions of signal handlers that the job itself has caught.

    Raises:
        KeyboardInterrupt: It came meanwhile, and the job is done. Likewise anything
            else that a signal handler raises, or the job.
    """
    came = [] if interrupts is None else interrupts
    failures: list[BaseException] = []
    # Bare locks: the classes that `threading` builds of them break when an exception
    # comes while they wait.
    is_claimed, is_running = _thread.allocate_lock(), _thread.allocate_lock()
    is_running.acquire()
    ends: list[None] = []

    def run() -> None:
        if not is_claimed.acquire(blocking=False):
            return
        try:
            job()
        except BaseException as error:
            failures.append(error)
        finally:
            ends.append(None)
            is_running.release()

    def wait() -> None:
        if not is_claimed.locked():
            try:
                _thread.start_new_thread(run, ())
            except RuntimeError:  # no thread can be started, as when Python ends
                run()
        is_running.acquire(timeout=_LOOK_UP_S)

    while not ends:
        # Two loops, since a second signal may come while the first one is caught, or
        # between two statements.
        try:
            while not ends:
                try:
                    wait()
                except BaseException as error:
                    came.append(error)
        except BaseException as error:
            came.append(error)
    if came:
        raise came[0] from (failures[0] if failures else None)
    if failures:
        raise failures[0]


def existing_files(prefix: str) -> list[str]:
    """Lists the files of a checkpoint that exist.

    Args:
        prefix: Path of the checkpoint, without suffix.

    Returns:
        Paths of its index, its data files, and a V1 file in its place; sorted.
    """
    # These are found even if the directory cannot be listed.
    by_name = filter(os.path.lexists, (prefix, f"{prefix}.index"))
    suffixes = filter(MEMBER.fullmatch, name_endings(prefix))
    return sorted({*(prefix + suffix for suffix in suffixes), *by_name})


def remove_stale(prefix: str) -> None:
    """Removes temporary files of saves to a prefix that were killed a day ago.

    Args:
        prefix: The path of a checkpoint, without suffix.
    """
    latest = time.time() - _STALE_S
    for suffix in filter(_TEMPORARY.fullmatch, name_endings(prefix)):
        path = prefix + suffix
        with contextlib.suppress(OSError):
            if os.lstat(path).st_mtime < latest:
                os.unlink(path)


def name_endings(prefix: str) -> list[str]:
    """Lists how the names of files go on that begin like a path; none if it cannot."""
    # No pattern is made of the prefix: to compile one takes longer than all the rest.
    folder, name = os.path.split(prefix)
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return []
    return [entry[len(name) :] for entry in names if entry.startswith(name)]
