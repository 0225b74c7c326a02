"""State files that do not parse: why, and which checkpoint they seem to mean.

Knows the ways in which people and programs spoil a small file of text. Reads nothing.
"""

from __future__ import annotations

import re
from typing import Final

from tf2flax._formats.wire.state_messages import checkpoint_state_error
from tf2flax._storage.foreign import recognise_file

# Paths, as a state file has them; what lies between the quotes is taken as it is.
_PATH: Final = re.compile(
    r"(?P<field>\w*model_checkpoint_paths?)\s*:\s*[\"'](.*?)[\"']"
)
# What is looked at (bytes): state files are small.
_MAX_NBYTES: Final = 1 << 16
_MERGE_MARKS: Final = re.compile(rb"^(<{7}|={7}|>{7})", re.M)
_MARKS: Final = (
    (b"\xef\xbb\xbf", "it begins with a byte order mark", "utf-8-sig"),
    (b"\xff\xfe", "it is in UTF-16", "utf-16"),
    (b"\xfe\xff", "it is in UTF-16", "utf-16"),
)


def why_unparsed(contents: bytes) -> str:
    """Says why a state file does not parse, as far as that can be seen.

    Args:
        contents: The file; it does not parse.

    Returns:
        The fact, to follow a colon.
    """
    for mark, fact, _ in _MARKS:
        if contents.startswith(mark):
            return f"{fact}; TensorFlow writes plain UTF-8"
    foreign = recognise_file(contents[:4096], "")
    if foreign is not None and foreign.pattern is not None:
        return f"it is {foreign.kind}"
    if b"\0" in contents:
        return "it holds zero bytes"
    if _MERGE_MARKS.search(contents):
        return "it holds the marks of a merge that was not finished (`<<<<<<<`)"
    try:
        text = contents.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    return checkpoint_state_error(text) or "it is malformed"


def paths_meant(contents: bytes) -> list[str]:
    """The paths in a state file, whether it parses or not: for suggestions alone.

    Args:
        contents: The file.

    Returns:
        The paths: that of the latest checkpoint first, then the others, newest first.
    """
    encodings = [encoding for mark, _, encoding in _MARKS if contents.startswith(mark)]
    start = contents[:_MAX_NBYTES]
    text = start.decode(encodings[0] if encodings else "utf-8", "replace")
    latest: list[str] = []
    others: list[str] = []
    for field, path in _PATH.findall(text.replace("\0", "")):
        named = path.replace("\\\\", "\\")  # as the text format escapes it
        (latest if field == "model_checkpoint_path" else others).append(named)
    # Of several, as TensorFlow takes it, the last counts.
    return [*reversed(latest), *reversed(others)]
