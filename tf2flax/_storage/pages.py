"""Pages of hosts about a file -> the URL of the file itself.

Goes by the URL alone, and asks no server: a page answers every request with HTML.
"""

from __future__ import annotations

import re
from typing import Final

from tf2flax._base.errors import UnsupportedError

_PAGES: Final = (
    (
        r"github\.com/(?P<repo>[^/]+/[^/]+)/(?P<page>blob|tree)/",
        "https://raw.githubusercontent.com/{repo}/",
    ),
    (
        r"huggingface\.co/(?P<repo>[^/]+(?:/[^/]+){0,2})/(?P<page>blob|tree)/",
        "https://huggingface.co/{repo}/resolve/",
    ),
    (
        r"gitlab\.com/(?P<repo>.+?)/-/(?P<page>blob|tree)/",
        "https://gitlab.com/{repo}/-/raw/",
    ),
)


def refuse_page(url: str) -> None:
    """Refuses the URL of a page that shows a file or folder.

    Raises:
        UnsupportedError: It is one, of a host that is known.

    Examples:
        >>> refuse_page("https://github.com/me/bert/blob/main/model.ckpt")
        Traceback (most recent call last):
        tf2flax.UnsupportedError: `https://github.com/me/bert/blob/main/model.ckpt` is \
a page about a file. Give `https://raw.githubusercontent.com/me/bert/main/model.ckpt`.
    """
    for pattern, raw in _PAGES:
        match = re.match(rf"https?://(www\.)?{pattern}", url)
        if match is None:
            continue
        path = re.split("[?#]", url[match.end() :])[0]
        goal = f"{raw.format(repo=match['repo'])}{path}"
        if match["page"] == "blob":
            raise UnsupportedError(f"`{url}` is a page about a file. Give `{goal}`.")
        raise UnsupportedError(
            f"`{url}` is a page about a folder. Give the prefix of a checkpoint in it, "
            f"`{goal.rstrip('/')}/model.ckpt` say."
        )
