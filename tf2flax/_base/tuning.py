"""How much is read at once: every size and number that reading is tuned by, in a value.

Passed down from whoever plans or runs reads, so that a test can make a tensor of some
bytes as hard to read as one of some GiB, and that users can say what their store is
like.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, cast

import numpy as np

from .caller import is_whole_number, show_value
from .errors import AssignmentError

# What is read at once: small enough to be still in the processor's cache when its
# checksum is computed, and that ranges which are not aligned with it over-read little;
# large enough for the disk (bytes).
CHUNK_NBYTES: Final = 4 << 20

# More threads than this only wait for each other.
_MAX_WORKERS: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Sizes and numbers that change how fast tensors are read, never what is read.

    Given to `open_checkpoint`, and as option `tuning` of a plan. The defaults suit
    local disks and object stores in the same region. Four of the numbers are worth a
    thought: of a store that is farther away, or nearer, say what a request costs,
    `remote_latency_s`, `remote_nbytes_per_s` and `remote_parallelism`, which decide
    whether the gaps between the runs that a shard needs are read over or skipped; and
    `max_workers`, where processors are to be left to others. Sizes below some KiB take
    long, and are for tests.

    Attributes:
        chunk_nbytes: Bytes of a local file that a thread reads, checks and copies
            before it goes on; also the size of a read that small neighbours share.
        remote_chunk_nbytes: The same for files on other machines: as much as one
            reader has under way there.
        read_cost_nbytes: The price of one more read of a local file, as bytes that
            could be read instead: a page, which a disk reads in any case. Gaps up to
            this are read over.
        remote_latency_s: Seconds until another machine begins to answer a request.
        remote_nbytes_per_s: Bytes that come from there in a second, of all requests
            that are under way.
        remote_parallelism: Requests that are under way side by side, each of which
            waits while others do.
        small_nbytes: Tensors up to this size share one read with their neighbours, as
            far as a chunk goes; leaves up to this size share a group. -1: none does,
            not even empty ones.
        group_nbytes: Small neighbours form groups up to this size: a call that places
            a group on devices takes as long as reading a MiB or two.
        job_nbytes: Bytes of a large piece that one thread reads before another may
            take over: some chunks, so that their checksums are rarely combined.
        min_direct_nbytes: Shorter runs are copied out of a chunk instead of being read
            into the array where they belong, since each would be a read of its own.
        transfer_nbytes: Groups that are ready wait until they take this much: each
            transfer to devices keeps the readers from running.
        max_over_read: Bytes of a local file that are read for each byte that is needed,
            at most.
        min_excess_nbytes: Bytes that may be read for nothing before `max_over_read`
            counts.
        max_runs: Reads that keeping to `max_over_read` may take; where it takes more,
            the gaps are read.
        max_workers: Threads that read at once, at most 1,024. Each holds a chunk
            besides what it fills, two where runs have gaps.
        portions_in_flight: Portions of one leaf that are read or transferred side by
            side.

    Raises:
        AssignmentError: A number is none, negative, or too small to read anything.

    Examples:
        >>> import numpy as np, tf2flax
        >>> nearby = tf2flax.Tuning(remote_latency_s=0.002, max_workers=16)
        >>> checkpoint = tf2flax.open_checkpoint({"step": np.int64(7)}, tuning=nearby)
        >>> checkpoint.tuning.max_workers
        16
        >>> tf2flax.Tuning(max_runs=-1)
        Traceback (most recent call last):
        ...
        tf2flax.AssignmentError: Tuning: max_runs is -1, not a whole number from 0 on.
    """

    chunk_nbytes: int = CHUNK_NBYTES
    remote_chunk_nbytes: int = 8 << 20
    read_cost_nbytes: int = 4 << 10
    remote_latency_s: float = 0.03
    remote_nbytes_per_s: float = 200e6
    remote_parallelism: int = 32
    small_nbytes: int = 256 << 10
    group_nbytes: int = CHUNK_NBYTES
    job_nbytes: int = 32 << 20
    min_direct_nbytes: int = 128 << 10
    transfer_nbytes: int = 128 << 20
    max_over_read: int = 8
    min_excess_nbytes: int = 1 << 20
    max_runs: int = 16_384
    max_workers: int = 8
    portions_in_flight: int = 4

    def __post_init__(self) -> None:
        """Refuses numbers that nothing can be read by."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_time = field.type == "float"
            checked = _checked_time(value) if is_time else _checked_count(value)
            low, high = _BOUNDS.get(field.name, (0, None))
            if checked is None or checked < low or (high and checked > high):
                kind = "a number" if is_time else "a whole number"
                limits = f"from {low:,} to {high:,}" if high else f"from {low:,} on"
                raise AssignmentError(
                    f"Tuning: {field.name} is {show_value(value)}, not {kind} {limits}."
                )
            object.__setattr__(self, field.name, checked)

    @property
    def staging_nbytes(self) -> int:
        """Bytes that all readers hold at most, besides the arrays that they fill."""
        return self.max_workers * 2 * self.chunk_nbytes

    def chunk_of(self, *, is_local: bool) -> int:
        """Bytes of a file that are read at once."""
        return self.chunk_nbytes if is_local else self.remote_chunk_nbytes

    def read_cost_of(self, *, is_local: bool) -> int:
        """The price of one more read of a file, as bytes that could be read instead.

        Of another machine, what comes from there in the time that a request waits, as
        far as it does not wait side by side with others: 187,500 bytes by default.

        Examples:
            >>> Tuning().read_cost_of(is_local=False)
            187500
        """
        if is_local:
            return self.read_cost_nbytes
        wait_s = self.remote_latency_s / self.remote_parallelism
        return round(wait_s * self.remote_nbytes_per_s)

    def batch_nbytes_of(self, *, is_local: bool) -> int:
        """Bytes of runs with gaps that are read into one buffer.

        A quarter as much of another machine, where a reader has several under way.
        """
        return self.chunk_nbytes if is_local else max(1, self.chunk_nbytes // 4)


# Least and greatest; of others, 0 and none.
_BOUNDS: Final[dict[str, tuple[int, int | None]]] = {
    "chunk_nbytes": (1, None),
    "remote_chunk_nbytes": (1, None),
    "small_nbytes": (-1, None),
    "remote_latency_s": (0, 86_400),
    "remote_parallelism": (1, None),
    "remote_nbytes_per_s": (1, 10**15),
    "job_nbytes": (1, None),
    "max_over_read": (1, None),
    "max_workers": (1, _MAX_WORKERS),
    "portions_in_flight": (1, None),
}


def _checked_count(value: Any) -> int | None:
    """A whole number, also NumPy's; None for anything else, bools too."""
    return int(value) if is_whole_number(value) else None


def _checked_time(value: Any) -> float | None:
    """A finite number, also NumPy's; None for anything else."""
    is_number = is_whole_number(value) or isinstance(value, (float, np.floating))
    try:
        number = float(cast("Any", value)) if is_number else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


DEFAULT_TUNING: Final = Tuning()


def check_tuning(option: str, tuning: Any) -> Any:
    """Refuses what is neither a `Tuning` nor None.

    Args:
        option: Name of the option, for the message.
        tuning: What the caller gave.

    Returns:
        The same.

    Raises:
        AssignmentError: It is something else.
    """
    if not isinstance(tuning, Tuning | None):
        raise AssignmentError(
            f"Option {option}: expected a tf2flax.Tuning or None, got "
            f"{show_value(tuning)}. Write tf2flax.Tuning(max_workers=16)."
        )
    return tuning
