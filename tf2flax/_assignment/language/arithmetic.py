"""Python's operators for expressions: `x + y`, `x - 1`, `2.0 * x`, `-x`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .expressions import Expression


class Arithmetic:
    """What `+`, `-` and `*` mean: values are checked once, wherever they stand."""

    __slots__ = ()
    # NumPy would make arrays of expressions otherwise; so it leaves them to us.
    __array_ufunc__ = None

    @abstractmethod
    def _combine(
        self, operator: str, value: object, *, is_value_first: bool
    ) -> Expression: ...

    @abstractmethod
    def _negate(self) -> Expression: ...

    def __add__(self, other: Any) -> Expression:
        """Adds an expression of equal shape and dtype, or a number."""
        return self._combine("+", other, is_value_first=False)

    def __radd__(self, other: Any) -> Expression:
        """Adds to a number."""
        return self._combine("+", other, is_value_first=True)

    def __sub__(self, other: Any) -> Expression:
        """Subtracts an expression of equal shape and dtype, or a number."""
        return self._combine("-", other, is_value_first=False)

    def __rsub__(self, other: Any) -> Expression:
        """Subtracts from a number."""
        return self._combine("-", other, is_value_first=True)

    def __mul__(self, other: Any) -> Expression:
        """Multiplies by an expression of equal shape and dtype, or a number."""
        return self._combine("*", other, is_value_first=False)

    def __rmul__(self, other: Any) -> Expression:
        """Multiplies a number."""
        return self._combine("*", other, is_value_first=True)

    def __neg__(self) -> Expression:
        """Changes the sign."""
        return self._negate()
