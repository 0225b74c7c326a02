"""The files of a checkpoint take the place of another's: all of them, or none.

Files that are complete under temporary names are renamed. In between there is a moment
in which no checkpoint is there, which is all that a reader, an interrupt or a kill can
meet. It is kept short: nothing is written, synced or removed in it, interrupts wait for
its end, and where the system refuses one rename the others are undone.
"""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import fcntl
import glob
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

# How often a system call is tried that an exception of a signal handler ends.
_MAX_TRIES: Final = 3
# Age of temporary files that a save to the same prefix removes: they are of one that
# was killed. Younger ones may be those of another process (s).
_STALE_S: Final = 24 * 3600.0
# An exchange takes milliseconds; who holds the lock for longer does something else (s).
_MAX_WAITING_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.001
# How often who waits looks whether the job has ended, should a signal have lost it (s).
_LOOK_UP_S: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """Which files take which place.

    Attributes:
        prefix: The checkpoint, without suffix.
        temporary: What the new files are called until then, without suffix.
        suffixes: Suffixes of the new data files.
        interrupts: What interrupted it; raised when all is done.
    """

    prefix: str
    temporary: str
    suffixes: tuple[str, ...]
    interrupts: list[BaseException] = dataclasses.field(
        default_factory=list[BaseException]
    )

    def run(self) -> None:
        """Renames the new files and removes the old ones.

        Raises:
            OSError: The system refuses; it says what is there now.
            KeyboardInterrupt: It came meanwhile, and everything is done. Likewise
                whatever else a signal handler raises.
        """
        uninterrupted(self._run_alone, self.interrupts)

    def discard(self) -> None:
        """Removes the new files."""
        for suffix in (*self.suffixes, ".index"):
            self._remove(f"{self.temporary}{suffix}")

    def _run_alone(self) -> None:
        """Runs while no other process exchanges files in the same directory.

        Else the index of the one could end beside the data of the other.
        """
        with _locked(os.path.dirname(self.prefix)):
            self._run(frozenset(existing_files(self.prefix)))

    def _run(self, old: frozenset[str]) -> None:
        index = f"{self.prefix}.index"
        # Asked for by name: not every directory that can be written can be listed.
        shared = [s for s in self.suffixes if os.path.lexists(f"{self.prefix}{s}")]
        is_hiding = bool(shared) and os.path.lexists(index)
        kept: list[str] = []
        undo: list[Callable[[], None]] = []
        try:
            if is_hiding:
                kept = self._kept(shared)
                # The moment begins: data without an index open as nothing at all.
                self._rename(index, self._aside())
                undo.append(lambda: self._rename(self._aside(), index))
            for suffix in self.suffixes:
                self._rename(f"{self.temporary}{suffix}", f"{self.prefix}{suffix}")
                undo.append(self._undoing(suffix, is_kept=suffix in kept))
            self._rename(f"{self.temporary}.index", index)
            # The moment is over. Where no new file has the name of an old one, there
            # was none: the new index took the old one's place.
        except OSError as error:
            is_lost = is_hiding and len(undo) > 1 and len(kept) < len(shared)
            raise self._undone(error, undo, is_lost=is_lost) from error
        except BaseException:
            self.discard()
            raise
        finally:
            for suffix in shared if is_hiding else ():
                self._remove(self._aside(suffix))
        self._remove(self._aside())
        new = {f"{self.prefix}{suffix}" for suffix in (*self.suffixes, ".index")}
        for path in sorted(old - new):
            self._remove(path)

    def _aside(self, suffix: str = "") -> str:
        """Where an old file is until all is done; nothing opens it there."""
        return f"{self.temporary}.old{suffix}"

    def _kept(self, suffixes: Sequence[str]) -> list[str]:
        """Gives old data a second name, as far as the file system knows links."""
        kept: list[str] = []
        for suffix in suffixes:
            try:
                os.link(f"{self.prefix}{suffix}", self._aside(suffix))
            except OSError:
                break
            kept.append(suffix)
        return kept

    def _undoing(self, suffix: str, *, is_kept: bool) -> Callable[[], None]:
        def undo() -> None:
            self._rename(f"{self.prefix}{suffix}", f"{self.temporary}{suffix}")
            if is_kept:
                os.link(self._aside(suffix), f"{self.prefix}{suffix}")

        return undo

    def _undone(
        self, error: OSError, undo: list[Callable[[], None]], *, is_lost: bool
    ) -> OSError:
        """Puts everything back; returns the error that says what is there then.

        Where old data are lost, the new files go back as well: there they are whole.
        """
        reason = error.strerror or str(error)
        steps = undo[1:] if is_lost else undo
        try:
            for step in reversed(steps):
                step()
        except OSError as failure:
            state = (
                f"then {failure.strerror}: files of the old and of the new checkpoint "
                f"lie at `{self.prefix}` and `{self.temporary}`, and none of them opens"
            )
            return OSError(error.errno, f"{reason}, {state}")
        if is_lost:
            self._remove(self._aside())
            state = (
                "the old checkpoint is lost, and the new one is whole at "
                f"`{self.temporary}`"
            )
            return OSError(error.errno, f"{reason}; {state}")
        self.discard()
        return OSError(error.errno, f"{reason}; what was there is there still")

    def _rename(self, source: str, target: str) -> None:
        for attempt in range(_MAX_TRIES):
            try:
                # One system call with two names; `replace` is what may be patched.
                (os.rename if attempt else os.replace)(source, target)
            except FileNotFoundError:
                if attempt and not os.path.lexists(source):
                    return  # it was done, and then interrupted
                raise
            except OSError:
                raise
            except BaseException as error:
                self.interrupts.append(error)
            else:
                return
        raise OSError(None, f"`{source}` could not be renamed for interrupts")

    def _remove(self, path: str) -> None:
        for _ in range(_MAX_TRIES):
            try:
                remove(path)
            except OSError:
                raise
            except BaseException as error:
                self.interrupts.append(error)
            else:
                return


@contextlib.contextmanager
def _locked(directory: str) -> Generator[None]:
    """Keeps other exchanges in a directory waiting, where its file system has locks."""
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
            except OSError:  # it has none
                break
            else:
                break
        yield
    finally:
        with contextlib.suppress(OSError):  # who was forked meanwhile holds it as well
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def uninterrupted(
    job: Callable[[], None], interrupts: list[BaseException] | None = None
) -> None:
    """Runs a job that no interrupt ends, in a thread of its own.

    Signal handlers run in the main thread alone.

    Args:
        job: The job.
        interrupts: What interrupted the job, as far as it has caught that itself.

    Raises:
        KeyboardInterrupt: It came meanwhile, and the job is done. Likewise whatever
            else a signal handler raises, or the job.
    """
    came = [] if interrupts is None else interrupts
    failures: list[BaseException] = []
    # Bare locks: what `threading` builds of them breaks when an interrupt comes.
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
            except RuntimeError:  # there is no thread to be had, as when Python ends
                run()
        is_running.acquire(timeout=_LOOK_UP_S)

    while not ends:
        # Two loops, since a second signal may come while the first one is caught, or
        # where no statement is.
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
    """Lists the files of a checkpoint, as far as they are there.

    Args:
        prefix: Its path, without suffix.

    Returns:
        Paths of its index, its data files, and a V1 file in its place.
    """
    member = re.compile(re.escape(prefix) + r"(\.index|\.data-\d{5}-of-\d{5})?")
    found = glob.glob(f"{glob.escape(prefix)}*", include_hidden=True)
    # These also where the directory cannot be listed.
    by_name = filter(os.path.lexists, (prefix, f"{prefix}.index"))
    return sorted({*filter(member.fullmatch, found), *by_name})


def remove_stale(prefix: str) -> None:
    """Removes what saves to a prefix that were killed a day ago have left.

    Args:
        prefix: The path of a checkpoint, without suffix.
    """
    left = re.compile(
        re.escape(prefix) + r"\.tempstate[0-9a-f]{16}"
        r"(\.index|(\.old)?(\.data-\d{5}-of-\d{5})?)"
    )
    latest = time.time() - _STALE_S
    for path in glob.glob(f"{glob.escape(prefix)}.tempstate*", include_hidden=True):
        with contextlib.suppress(OSError):
            if left.fullmatch(path) and os.lstat(path).st_mtime < latest:
                os.unlink(path)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
