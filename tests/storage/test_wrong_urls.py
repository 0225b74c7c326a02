"""URLs that lead to no file: what to give instead is said before anything is asked."""

from __future__ import annotations

import pathlib
import re
import zipfile

import numpy as np
import pytest

import tf2flax
from tf2flax._storage.pages import refuse_page

GITHUB = "https://raw.githubusercontent.com/me/bert/"
HUGGING_FACE = "https://huggingface.co/google/bert/resolve/"
# A URL, and the words that the answer must have.
URLS = {
    "gcs://bucket/m.ckpt": "Did you mean `gs://bucket/m.ckpt`?",
    "s3a://bucket/m.ckpt": "Did you mean `s3://bucket/m.ckpt`?",
    "htps://host/m.ckpt": "Did you mean `https://host/m.ckpt`?",
    "hdfs://host/m.ckpt": "Copy the checkpoint's files to a local directory.",
    "http://": "names no host or bucket. Write `http://host/path`.",
    "gs:///m.ckpt": "names no host or bucket. Write `gs://host/path`.",
    "https://github.com/me/bert/blob/main/a/m.ckpt?plain=1#L1": (
        f"a page about a file. Give `{GITHUB}main/a/m.ckpt`."
    ),
    "https://www.github.com/me/bert/tree/main/a/": (
        f"a page about a folder. Give the prefix of a checkpoint in it, "
        f"`{GITHUB}main/a/model.ckpt` say."
    ),
    "https://huggingface.co/google/bert/blob/main/m.ckpt.index": (
        f"Give `{HUGGING_FACE}main/m.ckpt.index`."
    ),
    "https://huggingface.co/google/bert/tree/main": (
        f"in it, `{HUGGING_FACE}main/model.ckpt` say."
    ),
    "https://gitlab.com/a/b/c/-/blob/main/m.ckpt": (
        "Give `https://gitlab.com/a/b/c/-/raw/main/m.ckpt`."
    ),
    "http://127.0.0.1:1/a.tgz|tar:b/m.ckpt": (
        "Download it first. Unpack it, `tar -xf 'a.tgz'`, and give `b/m.ckpt`."
    ),
    "file:///tmp/a%20b.tar|tar:m.ckpt": (
        "opens nothing by `|tar:` - in `file:///tmp/a%20b.tar|tar:m.ckpt`. Unpack it, "
        "`tar -xf 'a b.tar'`, and give `m.ckpt`."
    ),
}


@pytest.mark.parametrize("url", URLS)
def test_what_to_give_instead(url: str) -> None:
    with pytest.raises(tf2flax.UnsupportedError) as caught:
        tf2flax.open_checkpoint(url)
    assert URLS[url] in str(caught.value)


def test_other_pages_of_these_hosts_are_asked_for() -> None:
    for url in (f"{GITHUB}blob/m.ckpt", "https://me.org/github.com/a/b/blob/m.ckpt"):
        refuse_page(url)


def test_a_member_of_a_local_archive_has_a_url(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tf2flax.save_checkpoint("m.ckpt", {"w": np.float32(7)})
    with zipfile.ZipFile("a b.zip", "w") as archive:
        for path in tmp_path.glob("m.ckpt.*"):
            archive.write(path, f"dir/{path.name}")
    with pytest.raises(tf2flax.CheckpointNotFoundError) as caught:
        tf2flax.open_checkpoint("a b.zip|zip:dir/m.ckpt")
    (url,) = re.findall("has a URL: `(.*)`", str(caught.value))
    assert tf2flax.open_checkpoint(url)["w"].read() == 7
    (tmp_path / "a.tar").touch()
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=r"`tar -xf 'a\.tar'`"):
        tf2flax.open_checkpoint("a.tar|tar:m.ckpt")


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (r"C:\Users\me\model.ckpt", "WSL has it at `/mnt/c/Users/me/model.ckpt`"),
        ("$RUNS/model.ckpt", "Give `/data/runs/model.ckpt`"),
        ("${RUNS}/1/model.ckpt", "Give `/data/runs/1/model.ckpt`"),
    ],
)
def test_paths_as_shells_and_windows_spell_them(
    path: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNS", "/data/runs")
    with pytest.raises(tf2flax.CheckpointNotFoundError, match=re.escape(given)):
        tf2flax.open_checkpoint(path)
