"""The cost of a restore for each process, as values and as a table."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from tf2flax._assignment.plans.sections import (
    GREEN,
    Section,
    format_sections,
    html_of,
)
from tf2flax._base.html import report_html
from tf2flax._base.text import format_nbytes


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessCost:
    """The cost of a restore for one process.

    Attributes:
        process: Its number.
        needed_nbytes: Bytes of the checkpoint that its devices need of it.
        read_nbytes: Bytes that it reads for that.
        host_nbytes: Host memory that reading takes at most, besides arrays that live on
            the host.
        device_nbytes: Bytes of the leaves on all of its devices.

    Examples:
        >>> ProcessCost(0, 10, 12, 20, device_nbytes=10).read_nbytes
        12
    """

    process: int
    needed_nbytes: int
    read_nbytes: int
    host_nbytes: int
    device_nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class PlanCost:
    """The cost of a restore for all processes; made by `Plan.cost`.

    Attributes:
        strategy: Their strategy of sharing in reading.
        processes: The cost for each of them.

    Examples:
        >>> cost = PlanCost("local", (ProcessCost(0, 10, 12, 20, 10),))
        >>> cost.over_read
        1.2
    """

    strategy: str
    processes: tuple[ProcessCost, ...]

    def __str__(self) -> str:
        """A table for people."""
        return "\n".join(format_sections([self.section()])[1:])

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        name = f"strategy {self.strategy}"
        summary = f"{format_nbytes(self.read_nbytes)} read by all processes"
        table = html_of(self.section(), is_open=True)
        return report_html("Cost of a restore", name, summary, [table])

    def section(self) -> Section:
        """The same as a group of a plan's report; equal processes share a row."""
        rows: list[tuple[str, ...]] = []
        for _, group in itertools.groupby(
            self.processes, key=lambda cost: dataclasses.replace(cost, process=0)
        ):
            first, *others = group
            span = f"-{others[-1].process}" if others else ""
            needed, read = first.needed_nbytes, first.read_nbytes
            rows.append(
                (
                    f"{first.process}{span}",
                    format_nbytes(needed),
                    format_nbytes(read),
                    f"{read / needed if needed else 1:.2f}",
                    format_nbytes(first.host_nbytes),
                    format_nbytes(first.device_nbytes),
                )
            )
        return Section(
            title=f"Reads of each process (strategy {self.strategy})",
            colour=GREEN,
            columns=("process", "needed", "read", "ratio", "host memory", "on devices"),
            rows=tuple(rows),
            note=(
                f"all processes: {format_nbytes(self.read_nbytes)} read, "
                f"{self.over_read:.2f} bytes for each byte needed"
            ),
        )

    @property
    def needed_nbytes(self) -> int:
        """Bytes that all processes need, those that several need counted for each."""
        return sum(cost.needed_nbytes for cost in self.processes)

    @property
    def read_nbytes(self) -> int:
        """Bytes that all processes read."""
        return sum(cost.read_nbytes for cost in self.processes)

    @property
    def over_read(self) -> float:
        """Bytes read for each byte needed."""
        return self.read_nbytes / self.needed_nbytes if self.needed_nbytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """The costs as plain values, ready for `json.dumps`."""
        return {
            "strategy": self.strategy,
            "needed_nbytes": self.needed_nbytes,
            "read_nbytes": self.read_nbytes,
            "over_read": self.over_read,
            "processes": [dataclasses.asdict(cost) for cost in self.processes],
        }
