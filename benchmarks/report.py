"""Tables, goals and plots: what becomes of the figures."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from .gains import TITLE, gain_lines


@dataclasses.dataclass(frozen=True)
class Goal:
    """A ratio that is to be reached.

    Attributes:
        what: What is compared.
        found: The ratio that was measured.
        wanted: The bound.
        is_most: Whether the bound is the most, not the least.
    """

    what: str
    found: float
    wanted: float
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the ratio keeps to the bound."""
        return self.found <= self.wanted if self.is_most else self.found >= self.wanted

    def row(self) -> tuple[str, ...]:
        """What, found, wanted, met."""
        sign = "≤" if self.is_most else "≥"
        judged = "met" if self.is_met else "**missed**"
        return (self.what, f"{self.found:.2f}", f"{sign} {self.wanted:g}", judged)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a head; the first column is text, the others are figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """As Markdown."""
        marks = ["---", *("---:" for _ in self.head[1:])]
        rows = [self.head, marks, *self.rows]
        return [f"| {' | '.join(row)} |" for row in rows] + [""]


@dataclasses.dataclass(frozen=True)
class Plot:
    """Lines over a size, both axes logarithmic.

    Attributes:
        name: Of the file, without suffix.
        title: What is seen.
        x: What the sizes are.
        y: What the values are.
        lines: By label, the sizes and the values.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Bars:
    """A bar for each contender, in groups."""

    name: str
    title: str
    y: str
    groups: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Section:
    """What one benchmark found."""

    title: str
    text: str
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    plots: Sequence[Plot | Bars] = ()
    notes: Sequence[str] = ()

    def lines(self, folder: str) -> list[str]:
        """As Markdown; pictures lie in a folder."""
        found = [f"## {self.title}", "", self.text, ""]
        for table in self.tables:
            found += table.lines()
        if self.goals:
            found += Table(
                ("goal", "measured", "wanted", ""), goal_rows(self.goals)
            ).lines()
        for plot in self.plots:
            found += [f"![{plot.title}]({folder}/{plot.name}.svg)", ""]
        for note in self.notes:
            found += [note, ""]
        return found


def update_page(text: str, sections: Sequence[Section], folder: str, note: str) -> str:
    """Replaces sections of a page, and their goals; the others stay as they are.

    Args:
        text: The page.
        sections: What has been measured anew; what the page lacks is added.
        folder: Where pictures lie.
        note: When and where these were measured, below each.

    Returns:
        The page.
    """
    head, *blocks = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    by_title = {_title_of(block): block for block in blocks}
    goals = by_title.get("## Goals", "")
    method = by_title.get("## How it was measured", "")
    others = {title: b for title, b in by_title.items() if title not in _FIRST}
    for section in sections:
        lines = [*section.lines(folder), *([note, ""] if note else [])]
        others[f"## {section.title}"] = "\n".join(lines) + "\n"
    measured = [goal for section in sections for goal in section.goals]
    goals = _update_goals(goals, measured) if goals else ""
    gains = "\n".join(gain_lines(goals))
    parts = [part for part in (gains, method, goals) if part]
    parts += [others[title] for title in sorted(others, key=_place_of)]
    return "\n".join(part.rstrip("\n") + "\n" for part in (head, *parts))


# Sections before those of benchmarks.
_FIRST = {f"## {TITLE}", "## How it was measured", "## Goals"}


def _title_of(block: str) -> str:
    return block.partition("\n")[0]


def _place_of(title: str) -> tuple[int, str]:
    """Sections stand in the order of their numbers, those without one at the end."""
    number = re.match(r"## (\d+)\.", title)
    return (int(number[1]) if number else sys.maxsize, title)


def _update_goals(block: str, measured: Sequence[Goal]) -> str:
    """Replaces rows of the table of goals, by what they compare; adds new ones."""
    lines = block.rstrip("\n").split("\n")
    for goal in measured:
        (row,) = Table((), [goal.row()]).lines()[2:-1]
        places = [n for n, x in enumerate(lines) if x.startswith(f"| {goal.what} |")]
        if places:
            lines[places[0]] = row
        else:
            lines.append(row)
    return "\n".join(lines) + "\n"


def goal_rows(goals: Sequence[Goal]) -> list[tuple[str, ...]]:
    """A row for each goal."""
    return [goal.row() for goal in goals]


def shares(title: str, found: Sequence[Sequence[object]]) -> str:
    """A profile in a sentence."""
    parts = [f"{where} {float(str(share)):.0%}" for where, share in found]
    return f"{title}: {', '.join(parts)}."


def draw(plot: Plot | Bars, folder: pathlib.Path) -> None:
    """Draws into `folder/name.svg`; nothing where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return
    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = plot.name
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    if isinstance(plot, Plot):
        for label, (xs, ys) in plot.lines.items():
            axes.plot(xs, ys, marker="o", label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(plot.x)
        axes.grid(alpha=0.3)
    else:
        labels = list(dict.fromkeys(n for group in plot.groups.values() for n in group))
        width = 0.8 / len(labels)
        for i, label in enumerate(labels):
            places = [
                (number + i * width, group[label])
                for number, group in enumerate(plot.groups.values())
                if label in group
            ]
            axes.bar(*zip(*places, strict=True), width=width, label=label)
        middles = [n + 0.4 - width / 2 for n in range(len(plot.groups))]
        axes.set_xticks(middles, list(plot.groups))
    axes.set_ylabel(plot.y)
    axes.set_title(plot.title)
    axes.legend(fontsize="small")
    figure.savefig(folder / f"{plot.name}.svg", metadata={"Date": None})
    pyplot.close(figure)
