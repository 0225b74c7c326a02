"""Makes docs/plan.svg and docs/plan.png: what `tf2flax plan` shows.

    python -m checks.plan_pictures            makes both; needs Chromium for the page
    python -m checks.plan_pictures --check    exits with 1 if one is out of date

plan.svg is what the command prints on a terminal; plan.png is the page that `--html`
writes, in a browser. It holds the checksum of that page, which is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import importlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from typing import Final

import tf2flax
from tf2flax._cli import main as run_command

ROOT: Final = pathlib.Path(__file__).resolve().parents[1]
TERMINAL: Final = ROOT / "docs" / "plan.svg"
PAGE: Final = ROOT / "docs" / "plan.png"
# Typed in a folder with the checkpoint, `examples/bert_linen.py` and its map.
COMMAND: Final = (
    "plan", "bert", "--map", "bert.toml", "--target", "bert_linen:make_params"
)  # fmt: skip
FOLDER: Final = "/home/me"
# All in pixels.
LINE_HEIGHT: Final = 18
LETTER: Final = 8.1
MARGIN: Final = 16
PAGE_SIZE: Final = (1200, 640)
# More columns are cut.
COLUMNS: Final = 160
ROWS: Final = 50
# Colours of the escape sequences, on a dark ground.
COLOURS: Final = {
    "32": "#8ec07c", "33": "#fabd2f", "31": "#fb4934", "34": "#83a598",
    "90": "#928374",
}  # fmt: skip
# Where a picture in PNG keeps text: an entry called `page`.
KEY: Final = b"page\0"
SIGNATURE_NBYTES: Final = 8


class Terminal(io.StringIO):
    """Text that is taken for a terminal."""

    def isatty(self) -> bool:
        """True."""
        return True


def run() -> tuple[str, bytes]:
    """Runs the command.

    Returns:
        What it prints on a terminal, and the page; as in `FOLDER`.
    """
    sys.path.insert(0, str(ROOT / "examples"))
    entries: dict[str, str] = importlib.import_module("bert_linen").ASSIGNMENT_MAP
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = pathlib.Path.cwd()
        shutil.copytree(ROOT / "tests" / "data" / "bert", "bert")
        tf2flax.save_map("bert.toml", entries)
        os.environ["TERM"] = "xterm"
        os.environ.pop("NO_COLOR", None)
        with contextlib.redirect_stdout(Terminal()) as printed:
            assert run_command([*COMMAND, "--html", "plan.html"]) == 0
        page = pathlib.Path("plan.html").read_text()
    texts = (printed.getvalue(), page)
    terminal, page = (text.replace(str(folder), FOLDER) for text in texts)
    return terminal, page.encode()


def draw(printed: str) -> str:
    """Draws a terminal.

    Args:
        printed: What a command has printed, with escape sequences of colours.

    Returns:
        Text of an SVG file.
    """
    lines = [f"$ tf2flax {' '.join(COMMAND)}", *printed.rstrip("\n").split("\n")]
    if len(lines) > ROWS:
        lines = [*lines[: ROWS - 1], "…"]
    width = round(COLUMNS * LETTER + 2 * MARGIN)
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + LINE_HEIGHT * (number + 0.75):g}" '
        f'xml:space="preserve">{"".join(_spans(line))}</text>'
        for number, line in enumerate(lines)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13.5" '
            'fill="#ebdbb2">',
            f'<rect width="{width}" height="{height}" rx="8" fill="#282828"/>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _spans(line: str) -> Iterator[str]:
    """The pieces of a line, each in its colour."""
    room, colour = COLUMNS, ""
    for piece in re.split(r"(\x1b\[\d+m)", line):
        if code := re.fullmatch(r"\x1b\[(\d+)m", piece):
            colour = COLOURS.get(code[1], "")
            continue
        text = piece if len(piece) <= room else f"{piece[: room - 1]}…"
        room -= len(text)
        escaped = html.escape(text, quote=False)
        yield f'<tspan fill="{colour}">{escaped}</tspan>' if colour else escaped


def photograph(page: bytes) -> bytes:
    """Shows a page in a browser.

    Args:
        page: The page.

    Returns:
        A picture in PNG, with the checksum of the page.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "Chromium is needed"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "plan.html"
        path.write_bytes(page)
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars", f"--user-data-dir={folder}/profile",
                f"--screenshot={folder}/plan.png", "--virtual-time-budget=10000",
                f"--window-size={PAGE_SIZE[0]},{PAGE_SIZE[1]}", path.as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        picture = (pathlib.Path(folder) / "plan.png").read_bytes()
    return _with_text(picture, KEY + _checksum(page))


def _checksum(page: bytes) -> bytes:
    return hashlib.sha256(page).hexdigest().encode()


def _with_text(picture: bytes, text: bytes) -> bytes:
    """Adds an entry of text to a PNG, after its header."""
    kind_and_text = b"tEXt" + text
    chunk = (
        len(text).to_bytes(4, "big")
        + kind_and_text
        + zlib.crc32(kind_and_text).to_bytes(4, "big")
    )
    # Signature, then length, kind, 13 bytes and CRC of the header.
    header_end = SIGNATURE_NBYTES + 4 + 4 + 13 + 4
    return picture[:header_end] + chunk + picture[header_end:]


def main(arguments: list[str]) -> int:
    """Makes the pictures, or compares them with those that are there."""
    printed, page = run()
    terminal = draw(printed)
    if arguments == ["--check"]:
        is_current = {
            TERMINAL: TERMINAL.is_file() and TERMINAL.read_text() == terminal,
            PAGE: PAGE.is_file() and KEY + _checksum(page) in PAGE.read_bytes(),
        }
        for path, is_same in is_current.items():
            print(f"docs/{path.name} is {'current' if is_same else 'out of date'}")
        return not all(is_current.values())
    TERMINAL.write_text(terminal)
    PAGE.write_bytes(photograph(page))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
