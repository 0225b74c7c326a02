"""Keys of a store as files of a checkpoint: indexes and data files.

A store gives every value of a key a generation, by which a changed value is noticed.
Reads are ranged, of bounded size and number, and end after a time.
"""

from __future__ import annotations

import collections
import hashlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tf2flax._base.data_files import BufferRead
from tf2flax._base.errors import DamagedError, ReadError, UnsupportedError
from tf2flax._base.values import ByteRange

from .base import HEAD_NBYTES
from .faults import OutOfRangeError, describe_bytes, missing_file, short_file
from .requests import (
    ALL_IN_FLIGHT,
    ALL_IN_FLIGHT_NBYTES,
    IN_FLIGHT_NBYTES,
    MAX_REQUESTS,
    REQUEST_NBYTES,
    StoreClient,
    wait_for,
)
from .snapshots import replaced

if TYPE_CHECKING:
    from .archives import UnpackedFile
    from .requests import Future


class StoreIndex:
    """The index of a checkpoint in a store."""

    __slots__ = ("_client", "_digest", "_generation", "_key", "contents")

    def __init__(
        self,
        client: StoreClient,
        key: str,
        contents: bytes,
        generation: bytes,
        digest: bytes = b"",
    ) -> None:
        """Holds what was read.

        Args:
            client: The store.
            key: The key of the index.
            contents: All its bytes; empty in a copy.
            generation: What the store calls these bytes.
            digest: SHA-256 of the contents, where they are not given.
        """
        self._client = client
        self._key = key
        self.contents = contents
        self._generation = generation
        self._digest = digest

    def file(self, path: str) -> StoreFile:
        """A data file, whose generation is remembered when it is first read."""
        return StoreFile(self._client, path, self)

    def settle(self, paths: Iterable[str]) -> bool:
        """True, without a look: each is a request; `check` follows the first reads."""
        return True

    def check(self, subject: str) -> None:
        """Checks by one small request that the index is still what it was.

        A data file that was read before that belongs to it then. Where the server names
        no generations (an HTTP server without ETag), nothing is known.

        Args:
            subject: What is read, for messages.

        Raises:
            ReplacedError: It is not.
            ReadError: The store refuses.
        """
        if not _names_contents(self._generation):
            return
        result = self._client.read_unless(self._key, self._generation)
        if result.state == "unspecified":
            return
        generation = result.stamp.generation
        if result.state == "value" and generation == self._generation:
            return  # the server does not know the condition
        # The generation changes, too, when the same bytes are uploaded again.
        result = self._client.read(self._key)
        if result.state != "value" or not self._has_contents(result.value):
            raise replaced(subject, self._client.url_of(self._key))
        self._generation = generation

    def _has_contents(self, contents: bytes) -> bool:
        return hashlib.sha256(contents).digest() == self._digest_of_contents()

    def _digest_of_contents(self) -> bytes:
        return self._digest or hashlib.sha256(self.contents).digest()

    def __eq__(self, other: object) -> bool:
        """True if both are the same index of the same store."""
        return (
            isinstance(other, StoreIndex)
            and self._key == other._key
            and self._generation == other._generation
            and self._client == other._client
        )

    def __hash__(self) -> int:
        """Hashes the key."""
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the generation; a manifest has the contents."""
        arguments = (self._client, self._key, b"", self._generation)
        return StoreIndex, (*arguments, self._digest_of_contents())


class StoreFile:
    """A key of a store as a file of a checkpoint."""

    __slots__ = (
        "_client",
        "_generation",
        "_index",
        "_key",
        "_lock",
        "_min_nbytes",
        "_url",
    )

    def __init__(
        self,
        client: StoreClient,
        key: str,
        index: StoreIndex | None = None,
        generation: bytes = b"",
    ) -> None:
        """Names a key.

        Args:
            client: The store.
            key: The key; it need not exist.
            index: The index that it belongs to, if any.
            generation: What the store calls its bytes; empty until it is first read.
        """
        self._client = client
        self._key = key
        self._url = client.url_of(key)
        self._index = index
        self._generation = generation
        # The file has at least so many bytes, as reads have shown.
        self._min_nbytes = 0
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """URL of the file, for messages."""
        return self._url

    @property
    def is_local(self) -> bool:
        """False: every read is a request."""
        return False

    def size(self) -> int | None:
        """None: a store does not say how long a value is."""
        return None

    def head(self) -> bytes:
        """First bytes of the file; empty where it cannot be read."""
        try:
            if unpacked := self._unpacked("The checkpoint"):
                return unpacked.read(0, HEAD_NBYTES)
            return self._client.read(self._key, slice(0, HEAD_NBYTES)).value
        except OutOfRangeError:  # it is shorter than that
            return self._read_all()
        except (DamagedError, ReadError, UnsupportedError):
            return b""

    def tail(self, nbytes: int) -> bytes:
        """Last bytes of the file; see `DataFile`."""
        if unpacked := self._unpacked("The checkpoint"):
            return unpacked.read(max(0, unpacked.nbytes - nbytes), nbytes)
        try:
            result = self._client.read(self._key, slice(-nbytes, None))
        except OutOfRangeError:  # it is shorter than that
            return self._read_all()
        if result.state != "value":
            raise self._missing("The checkpoint")
        self._check_generation(result, "The checkpoint")
        return result.value

    def _read_all(self) -> bytes:
        result = self._client.read(self._key)
        return result.value if result.state == "value" else b""

    def read_into(self, start: int, buffer: memoryview, *, subject: str) -> None:
        """Fills a buffer, by a few requests at a time; see `DataFile`."""
        self.read_runs_into((start,), buffer, subject=subject)

    def read_runs_into(
        self, starts: Sequence[int], buffer: memoryview, *, subject: str
    ) -> None:
        """Fills a buffer with runs, by a few requests at a time; see `DataFile`."""
        for _ in self.read_each_into([BufferRead(starts, buffer, subject)]):
            pass

    def read_each_into(self, reads: Iterable[BufferRead]) -> Generator[None]:
        """Fills buffers, by a few requests at a time; see `DataFile`.

        A buffer has run after run, each of which is read by one or several requests:

            run of the file     start            start + nbytes
                                |-- request --|-- request --|-|
            buffer      |- run 0 -|- run 1 -| …

        Requests for the next buffers are under way before the first one is full.
        """

        def start(request: _Request) -> _Asked:
            span = request.span
            if not span.nbytes:
                return request, None
            future = self._client.start_read(self._key, slice(span.start, span.stop))
            ALL_IN_FLIGHT.add(span.nbytes)
            return request, future

        def collect() -> bool:
            """Takes the oldest answer; True if its buffer is full now."""
            request, future = under_way.popleft()
            if future is not None:
                ALL_IN_FLIGHT.add(-request.span.nbytes)
                answer = self._answer(future, request.span, request.subject)
                request.target[:] = answer
                self._min_nbytes = max(self._min_nbytes, request.span.stop)
            return request.is_last

        under_way: collections.deque[_Asked] = collections.deque()
        try:
            for read in reads:
                if self._has_unpacked(read):
                    yield
                    continue
                for request in _requests_for(read):
                    while _is_full(under_way, request.span.nbytes):
                        if collect():
                            yield
                    under_way.append(start(request))
                # Room for the next buffer, beside one that is being emptied.
                while under_way and _is_full(under_way, 2 * len(read.buffer)):
                    if collect():
                        yield
            while under_way:
                if collect():
                    yield
        finally:
            for request, future in under_way:
                if future is not None:
                    future.cancel()
                    ALL_IN_FLIGHT.add(-request.span.nbytes)

    def _has_unpacked(self, read: BufferRead) -> bool:
        """Fills a buffer from the uncompressed file, if it is a compressed one."""
        starts, buffer, subject = read
        unpacked = self._unpacked(subject)
        if unpacked is None:
            return False
        nbytes, last = len(buffer) // len(starts), max(starts)
        self._check_unpacked(unpacked, ByteRange(last, last + nbytes), subject)
        for number, start in enumerate(starts):
            unpacked.read_into(start, buffer[number * nbytes : (number + 1) * nbytes])
        return True

    def check_span(self, span: ByteRange, *, subject: str) -> None:
        """Checks that the file is long enough, where much depends on it.

        Asks for the last byte, since a store does not say how long a value is. For what
        one request would read, it is not worth it.
        """
        if unpacked := self._unpacked(subject):
            self._check_unpacked(unpacked, span, subject)
            return
        if span.nbytes <= REQUEST_NBYTES or span.stop <= self._min_nbytes:
            return
        last = slice(span.stop - 1, span.stop)
        future = self._client.start_read(self._key, last)
        self._answer(future, span, subject, nbytes=1)
        self._min_nbytes = max(self._min_nbytes, span.stop)

    def __eq__(self, other: object) -> bool:
        """True if both are the same key of the same store."""
        return (
            isinstance(other, StoreFile)
            and self._key == other._key
            and self._index == other._index
            and self._client == other._client
        )

    def __hash__(self) -> int:
        """Hashes the key."""
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles store, key and generation."""
        return StoreFile, (self._client, self._key, self._index, self._generation)

    def _unpacked(self, subject: str) -> UnpackedFile | None:
        """The file uncompressed, if it is a compressed member of an archive."""
        if self._client.archive is None:
            return None
        index = self._index

        def check() -> None:
            if index is not None:
                index.check(subject)

        return self._client.archive.unpacked(self._key, subject=subject, check=check)

    def _check_unpacked(
        self, unpacked: UnpackedFile, span: ByteRange, subject: str
    ) -> None:
        if span.stop > unpacked.nbytes:
            head = unpacked.read(0, HEAD_NBYTES)
            raise short_file(self._url, span, subject, size=unpacked.nbytes, head=head)

    def _missing(self, subject: str) -> DamagedError:
        if self._index is not None:  # another index names other data files
            self._index.check(subject)
        return missing_file(self._url, subject)

    def _check_now(self, subject: str) -> None:
        """Checks that a file that is too short is the one that was opened."""
        if self._generation:
            result = self._client.read_unless(self._key, self._generation)
            if result.state == "value":
                self._check_generation(result, subject)
        elif self._index is not None:
            self._index.check(subject)

    def _check_generation(self, result: Any, subject: str) -> None:
        """Compares what was read with what was read first; remembers the first."""
        generation: bytes = result.stamp.generation
        if not _names_contents(generation):
            return
        if not self._generation:
            with self._lock:  # several threads may read the file for the first time
                if not self._generation:
                    if self._index is not None:
                        self._index.check(subject)
                    self._generation = generation
        if generation != self._generation:
            raise replaced(subject, self._url)

    def _answer(
        self, future: Any, span: ByteRange, subject: str, *, nbytes: int | None = None
    ) -> bytes:
        """Waits for a request and checks the answer.

        Args:
            future: The answer.
            span: The bytes that are wanted, for messages.
            subject: What is read, for messages.
            nbytes: How many bytes were asked for; None for those of the span.
        """
        where = describe_bytes(subject, span)
        try:
            result = wait_for(future, self._url, where)
        except OutOfRangeError as error:
            if error.size is not None and error.size >= span.stop:
                raise ReadError(
                    f"Cannot read `{self._url}`: asked for bytes "
                    f"[{span.start}:{span.stop}], got another range - for {subject}."
                ) from error
            self._check_now(subject)
            raise short_file(
                self._url, span, subject, size=error.size, head=self.head()
            ) from error
        if result.state != "value":
            raise self._missing(subject)
        self._check_generation(result, subject)
        value: bytes = result.value  # a copy, each time
        if len(value) != (span.nbytes if nbytes is None else nbytes):
            raise ReadError(
                f"Cannot read `{self._url}`: asked for {span.nbytes} bytes, got "
                f"{len(value)}{where}."
            )
        return value


class _Request(NamedTuple):
    """One request of several that fill a buffer.

    Attributes:
        target: The part of the buffer.
        span: The bytes of the file.
        subject: What is read, for messages.
        is_last: True if the buffer is full after it, and those before it.
    """

    target: memoryview
    span: ByteRange
    subject: str
    is_last: bool


# A request, and its answer; None where nothing had to be asked.
_Asked = tuple[_Request, "Future[Any] | None"]


def _requests_for(read: BufferRead) -> Iterator[_Request]:
    """The requests that fill a buffer with runs, one at least."""
    starts, buffer, subject = read
    nbytes = len(buffer) // len(starts)
    for number, start in enumerate(starts):
        for offset in range(0, max(nbytes, 1), REQUEST_NBYTES):
            count = min(REQUEST_NBYTES, nbytes - offset)
            first = number * nbytes + offset
            yield _Request(
                buffer[first : first + count],
                ByteRange(start + offset, start + offset + count),
                subject,
                is_last=first + count == len(buffer) and number + 1 == len(starts),
            )


def _is_full(under_way: Sequence[_Asked], nbytes: int) -> bool:
    """True if some bytes more are too much for one reader to have under way."""
    if not under_way or len(under_way) >= MAX_REQUESTS:
        return bool(under_way)
    asked = sum(request.span.nbytes for request, _ in under_way)
    is_much = asked + nbytes > IN_FLIGHT_NBYTES
    return is_much and ALL_IN_FLIGHT.nbytes + nbytes > ALL_IN_FLIGHT_NBYTES


def _names_contents(generation: bytes) -> bool:
    """True if a generation stands for certain bytes.

    Of one byte are tensorstore's marks alone: the store has no generations, or there is
    no value.
    """
    return len(generation) > 1
