"""Threads that read, and that stop soon when nobody waits for them any more.

An interrupt in the main thread must end soon. So whoever runs threads gives them up
when an error leaves the block, and what waits for another machine looks at
`is_given_up` now and then.
"""

from __future__ import annotations

import threading
from typing import Final

_THREAD: Final = threading.local()


def is_given_up() -> bool:
    """True if nobody waits any more for what this thread reads."""
    given_up: threading.Event | None = getattr(_THREAD, "given_up", None)
    return given_up is not None and given_up.is_set()


def belong_to(given_up: threading.Event, threads: list[threading.Thread]) -> None:
    """Makes this thread one of several.

    Args:
        given_up: Set when nobody waits for them any more.
        threads: Takes this thread.
    """
    _THREAD.given_up = given_up
    threads.append(threading.current_thread())
