"""A store as the destination of a save: data objects, then the index.

A store replaces an object at one moment, and renames nothing. So new data objects get
names that no old one has, and an old checkpoint is whole until the new index replaces
its index. Objects are written whole, by one request each: of what is under way, memory
holds a copy.

    old:   m.index   m.data-00000-of-00001
    1. m.data-00000-of-00002, m.data-00001-of-00002     the second one is empty
    2. m.index                                          the new checkpoint is there
    3. m.data-00000-of-00001 is removed
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tf2flax._base.errors import CheckpointError, ReadError, UnsupportedError

from . import requests
from .exchanging import MEMBER, uninterrupted
from .stores import KvStorage
from .writing import temporary_name

if TYPE_CHECKING:
    from .requests import Future

# Size that a data object should not exceed: large enough that the overhead of a request
# does not count, small enough that several fit into memory (bytes).
OBJECT_NBYTES: Final = 32 << 20
# Requests are under way as long as they have fewer bytes than this together (bytes).
IN_FLIGHT_NBYTES: Final = 64 << 20
# How often an object is read and written again that other saves change meanwhile; how
# long between, at most (seconds).
_MAX_TRIES: Final = 100
_LOOK_AGAIN_S: Final = 0.1
# The slowest line on which a save succeeds (bytes per second).
_SLOWEST_LINE: Final = 1 << 20


class StoreDestination:
    """A prefix in a store."""

    def __init__(self, storage: KvStorage, key: str, token: str = "") -> None:
        """Names a prefix.

        Args:
            storage: The store.
            key: The prefix in it.
            token: What tells this save from others; "" for a new one.
        """
        self._storage = storage
        self._client = storage.client
        self._key = key
        self._token = token or secrets.token_hex(8)
        # How keys went on that begin like the prefix. Of the checkpoint that was there
        # before, its objects; None until they are listed.
        self._suffixes: list[str] = []
        self._old: frozenset[str] | None = None
        self._in_flight: collections.deque[_Upload] = collections.deque()

    @property
    def path(self) -> str:
        """URL of the prefix."""
        return self._client.url_of(self._key)

    @property
    def storage(self) -> KvStorage:
        """The store."""
        return self._storage

    @property
    def location(self) -> str:
        """The prefix in the store."""
        return self._key

    @property
    def token(self) -> str:
        """16 hexadecimal digits."""
        return self._token

    @property
    def max_file_nbytes(self) -> int:
        """What is written at once is held in memory."""
        return OBJECT_NBYTES

    def existing(self) -> list[str]:
        """Objects of a checkpoint; data without an index is what is left of a save."""
        old = self._list_old()
        if not old & {"", ".index"}:
            return []
        return [self._url_of(suffix) for suffix in sorted(old)]

    def suffixes(self) -> list[str]:
        """From a listing of what begins like the prefix."""
        self._list_old()
        return self._suffixes

    def free_count(self, count: int) -> int:
        """The first number from `count` on that no old data object has in its name."""
        old = self._list_old()
        taken = {int(suffix[-5:]) for suffix in old if ".data-" in suffix}
        while count in taken:
            count += 1
        return count

    def folders(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: a store has no folders."""
        return contextlib.nullcontext()

    def mark(self) -> None:
        """Writes the token into an object."""
        self._put(self._mark_key, self._token.encode())

    def unmark(self) -> None:
        """Removes the object, if the store lets us."""
        self._remove([self._mark_key.removeprefix(self._key)])

    def is_marked(self) -> bool:
        """True if the object is there."""
        return self._storage.read(self._mark_key) == self._token.encode()

    @property
    def _mark_key(self) -> str:
        return temporary_name(self._key, self._token)

    def create(self, suffix: str) -> StoreSink:
        """Begins a data object, in memory."""
        return StoreSink(self, f"{self._key}{suffix}")

    def upload(self, key: str, contents: bytes | bytearray) -> None:
        """Begins to write an object; waits for others while too much is under way.

        Args:
            key: Its key.
            contents: All its bytes.

        Raises:
            ReadError: The store refuses this object, or one before it.
            UnsupportedError: The store cannot be written.
        """
        nbytes = len(contents)
        under_way = sum(upload.nbytes for upload in self._in_flight)
        while self._in_flight and under_way + nbytes > IN_FLIGHT_NBYTES:
            under_way -= self._in_flight[0].nbytes
            self._wait_for(self._in_flight.popleft())
        future = self._client.start_write(key, contents)
        self._in_flight.append(_Upload(key, nbytes, under_way + nbytes, future))

    def settle(self) -> None:
        """Waits until all data objects are there."""
        while self._in_flight:
            self._wait_for(self._in_flight.popleft())

    def check(self, suffix: str, nbytes: int) -> None:
        """Nothing: a store answers once it has all of an object."""

    def publish(
        self, index: bytes, suffixes: Sequence[str], replaced: Sequence[str] = ()
    ) -> str:
        """Writes the index, and removes what was there before; interrupts wait."""
        gone = [*sorted(self._list_old() - {*suffixes, ".index"}), *replaced]

        def replace() -> None:
            self._put_index(index, suffixes)
            self._remove(gone)

        uninterrupted(replace)
        return ""

    def _put_index(self, index: bytes, suffixes: Sequence[str]) -> None:
        """Writes the index; data objects go only if the store does not have it."""
        key = f"{self._key}.index"
        timeout_s = requests.REQUEST_TIMEOUT_S + len(index) / _SLOWEST_LINE
        future = self._client.start_write(key, index)
        try:
            self._answer_of(future, key, timeout_s)
        except CheckpointError as error:
            if self._has(key, index):  # the answer was lost
                return
            if future.cancelled():
                # Without its data, an index that comes late would replace a checkpoint
                # by one that does not open.
                raise ReadError(
                    f"{str(error).rstrip('.')}. The store may still take it, so that "
                    f"the data objects stay. Look which checkpoint `{self.path}` is, "
                    "and save again with overwrite=True."
                ) from error
            if self._is_known(key):
                self.discard(suffixes)
            raise

    def discard(self, suffixes: Sequence[str]) -> None:
        """Removes data objects; those that the store keeps harm nobody."""
        while self._in_flight:
            self._in_flight.popleft().future.cancel()
        self._remove(suffixes)

    def update(self, location: str, change: Callable[[bytes], bytes]) -> None:
        """Writes a small object, if it is still what was read; else reads it again."""
        for _ in range(_MAX_TRIES):
            present = self._client.read(location)
            contents = present.value if present.state == "value" else b""
            contents = change(contents)
            future = self._client.start_write(
                location, contents, if_equal=present.stamp.generation
            )
            try:
                if self._answer_of(future, location).generation:
                    return
            except UnsupportedError:  # some servers know no conditions
                self._put(location, contents)
                return
            time.sleep(secrets.randbelow(100) * _LOOK_AGAIN_S / 100)
        raise ReadError(
            f"Cannot write `{self._client.url_of(location)}`: other saves changed it "
            f"{_MAX_TRIES} times meanwhile."
        )

    def _put(self, key: str, contents: bytes) -> None:
        """Writes a small object, in one request."""
        self.upload(key, contents)
        self.settle()

    def _list_old(self) -> frozenset[str]:
        """Suffixes of the objects that were there when this was first asked."""
        if self._old is None:
            try:
                self._suffixes = self._client.list_keys(self._key)
            except UnsupportedError:  # without a listing, names that there may be
                self._suffixes = [
                    suffix
                    for suffix in ("", ".index")
                    if self._storage.is_file(f"{self._key}{suffix}")
                ]
            self._old = frozenset(filter(MEMBER.fullmatch, self._suffixes))
        return self._old

    def _wait_for(self, upload: _Upload) -> None:
        timeout_s = requests.REQUEST_TIMEOUT_S + upload.ahead_nbytes / _SLOWEST_LINE
        self._answer_of(upload.future, upload.key, timeout_s)

    def _answer_of(
        self, future: Future[Any], key: str, timeout_s: float | None = None
    ) -> Any:
        """The answer of a request to write; see `requests.wait_for`."""
        url = self._client.url_of(key)
        try:
            return requests.wait_for(future, url, verb="write", timeout_s=timeout_s)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"`{url}` cannot be written: its store can only be read. Write to a "
                "local directory, or to gs:// or s3://."
            ) from error

    def _has(self, key: str, contents: bytes) -> bool:
        """True if an object has these bytes, as far as the store answers."""
        with contextlib.suppress(CheckpointError):
            return self._storage.read(key) == contents
        return False

    def _is_known(self, key: str) -> bool:
        """True if the store answers what an object is."""
        with contextlib.suppress(CheckpointError):
            self._storage.is_file(key)
            return True
        return False

    def _remove(self, suffixes: Sequence[str]) -> None:
        """Removes objects, until the store refuses."""
        futures = [
            (suffix, self._client.start_write(f"{self._key}{suffix}", None))
            for suffix in suffixes
        ]
        with contextlib.suppress(ReadError, NotImplementedError):
            for suffix, future in futures:
                requests.wait_for(future, self._url_of(suffix), verb="remove")

    def _url_of(self, suffix: str) -> str:
        return self._client.url_of(f"{self._key}{suffix}")


class _Upload:
    """An object that is being written.

    Attributes:
        key: Its key.
        nbytes: Its size.
        ahead_nbytes: Bytes under way when it began, with its own.
        future: The answer.
    """

    def __init__(self, key: str, nbytes: int, ahead_nbytes: int, future: Any) -> None:
        self.key = key
        self.nbytes = nbytes
        self.ahead_nbytes = ahead_nbytes
        self.future = future


class StoreSink:
    """A data object, which is held in memory until it is whole."""

    def __init__(self, destination: StoreDestination, key: str) -> None:
        """Begins an object."""
        self._destination = destination
        self._key = key
        self._contents = bytearray()

    def write(self, buffer: memoryview) -> None:
        """Appends bytes."""
        self._contents += buffer

    def finish(self) -> None:
        """Begins to write the object."""
        self._destination.upload(self._key, self._contents)

    def close(self) -> None:
        """Forgets the object."""
        self._contents = bytearray()
