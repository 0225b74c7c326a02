"""All exporters, in one tuple."""

from __future__ import annotations

from typing import Final

from .exporter import Exporter
from .npz import Npz
from .orbax import Orbax
from .safetensors import Safetensors
from .tensorbundle import TensorBundle

EXPORTERS: Final[tuple[type[Exporter], ...]] = (Orbax, Safetensors, TensorBundle, Npz)
