"""Where a path leads: to this machine's files, or to a store that tensorstore knows.

Any key-value store of tensorstore (`gs://`, `s3://`, `http://`, `memory://` …) is a
place of checkpoints. Local paths need no tensorstore, and do not import it.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import posixpath
import re
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from tf2flax._base.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ReadError,
    UnsupportedError,
)

from .faults import OutOfRangeError, store_reason
from .local import LOCAL
from .not_paths import not_a_path, refuse_home, unknown_scheme
from .pages import refuse_page
from .requests import StoreClient, default_context, load_tensorstore
from .store_files import StoreFile, StoreIndex

if TYPE_CHECKING:
    from .archives import Archive
    from .base import Storage
    from .requests import Context, KvStore

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
# What pathlib makes of a URL: it takes `//` for `/`.
_PATH_OF_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
# URLs of these stores name a host or a bucket after `//`.
_WITH_HOST: Final = ("http", "https", "gs", "s3")
# A query chooses a file of these servers.
_WITH_QUERY: Final = ("http", "https")
# One of several files, as a Saver names them in the state file.
_ANY_NUMBER: Final = "-?????-of-"


def storage_of(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | KvStore,
    context: Context | None = None,
) -> tuple[Storage, str]:
    """Finds the place that a path leads to, and the path within it.

    Args:
        path: A local path, a URL that tensorstore knows, or a KvStore.
        context: tensorstore's; None bounds the retries of failing requests.

    Returns:
        The storage, and the path as text.

    Raises:
        CheckpointNotFoundError: No file can have this name.
        UnsupportedError: It is none of these, or tensorstore does not know such URLs.
        ReadError: The store cannot be opened.
    """
    storage, text = _storage_of(path, context)
    if "\0" in text:
        raise CheckpointNotFoundError(f"No file can be called {text!r}.")
    return storage, text


def _storage_of(path: Any, context: Context | None) -> tuple[Storage, str]:
    """Finds the same as `storage_of`, whatever characters the path has."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        if not _is_kvstore(path):
            raise not_a_path(path)
        return _storage_of_kvstore(path)
    text = os.fsdecode(path)  # pyright: ignore[reportUnknownArgumentType]
    url = _URL.match(text)
    if url is None:
        _check_not_a_url(text)
        if text.startswith("~"):
            refuse_home(text)
        return LOCAL, text
    if url["scheme"].lower() not in _WITH_QUERY and "|" not in text:
        _refuse_query(text)
    # With a `|`, it is a pipeline of stores, such as a zip file's.
    if url["scheme"].lower() == "file" and "|" not in text:
        return LOCAL, _path_of_file_url(text)
    refuse_page(text)
    host = text[url.end() :].partition("/")[0]
    if url["scheme"].lower() in _WITH_HOST and not host:
        raise UnsupportedError(
            f"`{text}` names no host or bucket. Write `{url[0]}host/path`."
        )
    ts = load_tensorstore()
    try:
        store = ts.KvStore.open(
            _spec_of(text), context=context or default_context()
        ).result()
    except Exception as error:
        scheme = re.search(r'unsupported URL scheme "([^"]*)"', str(error))
        if scheme or "unsupported URL scheme" in str(error):
            raise unknown_scheme(text, url, scheme[1] if scheme else "") from error
        raise ReadError(f"Cannot open `{text}`: {store_reason(error)}.") from error
    return _storage_of_kvstore(store)


def _spec_of(url: str) -> str | dict[str, Any]:
    """What opens a URL: the server of `AWS_ENDPOINT_URL`, if there is one, for S3.

    tensorstore itself reads TENSORSTORE_GCS_HTTP_URL, but not this variable.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint or not url.lower().startswith("s3://") or "|" in url:
        return url
    bucket, _, path = url.partition("://")[2].partition("/")
    spec: dict[str, Any] = {
        "driver": "s3",
        "bucket": bucket,
        "path": unquote(path),
        "endpoint": endpoint.rstrip("/"),
    }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return spec | ({"aws_region": region} if region else {})


def _check_not_a_url(path: str) -> None:
    """Refuses what pathlib left of a URL, unless a folder has that name.

    Raises:
        UnsupportedError: It was a URL.
    """
    url = _PATH_OF_URL.match(path)
    if url and not os.path.lexists(f"{url['scheme']}:"):
        slashes = ":///" if url["scheme"] == "file" else "://"
        raise UnsupportedError(
            f"`{path}` was a URL until pathlib took it for a path, and lost a slash. "
            f"Give the URL as a str: `{url['scheme']}{slashes}{path[url.end() :]}`."
        )


def is_context(value: object) -> bool:
    """True for a `tensorstore.Context`."""
    module = sys.modules.get("tensorstore")  # who has a Context has imported it
    return module is not None and isinstance(value, module.Context)


def _is_kvstore(path: object) -> bool:
    module = sys.modules.get("tensorstore")  # who has a KvStore has imported it
    return module is not None and isinstance(path, module.KvStore)


def _storage_of_kvstore(store: KvStore) -> tuple[Storage, str]:
    spec = store.spec().to_json()
    if spec.get("driver") == "file":
        return LOCAL, store.path
    archive = _archive_of(store) if spec.get("driver") == "zip" else None
    return KvStorage(StoreClient(_root_of(store), archive)), store.path


def _root_of(store: KvStore) -> KvStore:
    root = store.copy()
    root.path = ""
    return root


def _archive_of(store: KvStore) -> Archive | None:
    """What uncompresses members of a zip archive; None for one in another archive."""
    from .archives import Archive  # imports what few checkpoints need

    base = store.base
    if base is None or base.spec().to_json().get("driver") == "zip":
        return None
    return Archive(StoreFile(StoreClient(_root_of(base)), base.path))


def archive_error(storage: Storage, path: str) -> CheckpointError | None:
    """The error for a path in an archive that is not there, or cannot be read.

    Args:
        storage: The place.
        path: The path, at which no checkpoint was found.

    Returns:
        The error; None where it is no archive, or nothing is wrong with it.
    """
    archive = storage.client.archive if isinstance(storage, KvStorage) else None
    if archive is None:
        return None
    problem = f"No checkpoint at `{storage.show(path)}`"
    if not archive.exists():
        return missing_archive(problem, archive.path)
    fact = archive.why_unread(path)
    return UnsupportedError(f"{problem}: {fact}") if fact else None


def missing_archive(problem: str, archive: str) -> CheckpointNotFoundError:
    """The error for a path in an archive that is not there.

    Args:
        problem: What was not found.
        archive: The archive, for messages.
    """
    return CheckpointNotFoundError(
        f"{problem}: there is no archive `{archive}`. Give the path of one that is "
        "there before the `|`."
    )


def _path_of_file_url(url: str) -> str:
    host, slash, path = url.partition("://")[2].partition("/")
    if host not in ("", "localhost"):
        raise UnsupportedError(
            f"`{url}` names the host `{host}`. A file:// URL has three slashes "
            "before its absolute path."
        )
    # Of a name that is no UTF-8, the bytes; as those of a path.
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    return unquote(slash + path, encoding, errors)


def _refuse_query(url: str) -> None:
    """Refuses what is no part of a name, and would be dropped.

    Raises:
        UnsupportedError: Something follows the path.
    """
    mark = re.search("[?#]", url)
    if mark:
        kind = "a query" if mark[0] == "?" else "a fragment"
        encoded = url.replace("?", "%3F").replace("#", "%23")
        raise UnsupportedError(
            f"`{url}` has {kind} from `{mark[0]}` on, which names no file. Where the "
            f"character belongs to a name, write `{encoded}`."
        )


class KvStorage:
    """A key-value store of tensorstore as a place of checkpoints."""

    __slots__ = ("_client",)

    def __init__(self, client: StoreClient) -> None:
        """Wraps a store."""
        self._client = client

    @property
    def client(self) -> StoreClient:
        """What asks the store."""
        return self._client

    @property
    def is_local(self) -> bool:
        """False: a store knows keys, not directories."""
        return False

    def show(self, path: str) -> str:
        """The URL of a path."""
        return self._client.url_of(path)

    def join_state(self, directory: str, path: str) -> str | None:
        """Joins a relative path; an absolute one was that of another machine."""
        return None if path.startswith("/") else posixpath.join(directory, path)

    def is_file(self, path: str) -> bool:
        """True if a key exists; asks for one byte, which every server understands."""
        if _is_folder(path):
            return False
        try:
            return self._client.read(path, slice(0, 1)).state == "value"
        except OutOfRangeError:  # an empty file
            return True

    def is_directory(self, path: str) -> bool:
        """True if a path ends like a directory."""
        return _is_folder(path)

    def names_in(self, directory: str) -> list[str]:
        """Names of the keys right below a path, sorted."""
        return [name for name in self._names_below(directory) if "/" not in name]

    def folders_in(self, directory: str) -> list[str]:
        """First components of the keys further below a path, sorted."""
        names = self._names_below(directory)
        return sorted({name.partition("/")[0] for name in names if "/" in name})

    def _names_below(self, directory: str) -> list[str]:
        folder = directory if _is_folder(directory) else f"{directory}/"
        return self._client.list_keys(folder)

    def matches(self, pattern: str) -> list[str]:
        """Paths that a pattern of the last component matches, sorted."""
        if self.is_file(pattern):
            return [pattern]
        if not glob.has_magic(pattern):
            return []
        folder, _, last = pattern.rpartition("/")
        base = f"{folder}/" if folder or pattern.startswith("/") else ""
        try:
            names = self.names_in(base)
        except UnsupportedError:
            # State files name this pattern, which says itself which files there are.
            paths = [base + name for name in _numbered_names(last)]
            if not paths:
                raise
            return list(itertools.takewhile(self.is_file, paths))
        return [base + name for name in names if fnmatch.fnmatchcase(name, last)]

    def read(self, path: str) -> bytes | None:
        """All bytes of a key, in one request; None where there is none."""
        index = self.read_index(path)
        return None if index is None else index.contents

    def read_index(self, path: str) -> StoreIndex | None:
        """All bytes of an index, and its generation, in one request."""
        if _is_folder(path):
            return None
        result = self._client.read(path)
        if result.state != "value":
            return None
        return StoreIndex(self._client, path, result.value, result.stamp.generation)

    def file(self, path: str) -> StoreFile:
        """The file at a path."""
        return StoreFile(self._client, path)

    def whole_file(self, path: str) -> StoreFile:
        """The file at a path: each remembers the generation that it is read in."""
        return StoreFile(self._client, path)

    def __eq__(self, other: object) -> bool:
        """True if both are the same store."""
        return isinstance(other, KvStorage) and self._client == other._client

    def __hash__(self) -> int:
        """Hashes what equal stores share."""
        return hash(self._client)

    def __reduce__(self) -> tuple[type[KvStorage], tuple[StoreClient]]:
        """Pickles the store with the specification of its context."""
        return KvStorage, (self._client,)


def _is_folder(path: str) -> bool:
    """True if a path ends like a directory: no checkpoint has such a key."""
    return not path or path.endswith("/")


def _numbered_names(pattern: str) -> list[str]:
    """Names of the files of a sharded checkpoint, without a listing.

    Args:
        pattern: The last component of what a Saver writes into the state file:
            `model.ckpt-?????-of-00002`, perhaps with the ending of an index.

    Returns:
        `model.ckpt-00000-of-00002` …; none where it is another pattern.
    """
    start, _, end = pattern.rpartition(_ANY_NUMBER)
    count = end.removesuffix(".index")
    is_plain = bool(start) and not glob.has_magic(start) and len(count) == 5
    if not is_plain or not (count.isascii() and count.isdecimal()):
        return []
    return [f"{start}-{number:05d}-of-{end}" for number in range(int(count))]
