"""Where the repository and the checkpoints of the tests lie."""

from __future__ import annotations

import pathlib
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
DATA: Final = ROOT / "tests" / "data"
