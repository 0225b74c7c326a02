"""A plan as one page of HTML: checkpoint and leaves as a tree with two columns.

Turns plain values into text: `Plan.to_dict()` and sizes. The page asks no network; it
holds the rows as JSON, and `page.js` draws those that are open.
"""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tf2flax._base.html import STYLE, table_html
from tf2flax._base.text import counted, format_nbytes, printable

# A row of the tree: name in the checkpoint, leaf, note, bytes (None: not counted).
Row = tuple[str, str, str, int | None]

# The columns of a row, by which a tree is built.
_SOURCE: Final = 0
_LEAF: Final = 1
# Nothing is loaded from elsewhere, whatever names in the page say.
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def render_page(
    document: Mapping[str, Any], *, error: str = "", sizes: Mapping[str, int]
) -> str:
    """Writes a plan as a page.

    Args:
        document: `Plan.to_dict()`; where there is no plan, only its "checkpoint".
        error: Why the restore would fail; "" if it would not.
        sizes: Bytes of the tensors that are not used, by name.

    Returns:
        The page.
    """
    prefix = printable(str(document["checkpoint"]))
    trees = [tree for tree in _trees(document, sizes) if tree["rows"]]
    for number, tree in enumerate(trees):
        tree["id"] = f"tree-{number}"
    problems = [tree for tree in trees if tree["kind"] == "problem"]
    others = [tree for tree in trees if tree["kind"] != "problem"]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Restore plan for {html.escape(prefix)}</title>",
        STYLE,
        f"<style>{_resource('page.css')}</style></head>",
        '<body class="tf2flax">',
        f"<h1>Restore plan for <code>{html.escape(prefix)}</code></h1>",
        f"<p>{html.escape(_summary(document))}</p>",
    ]
    if error:
        lines += [
            "<p><b>The restore would fail:</b></p>",
            f'<div class="error">{html.escape(error)}</div>',
        ]
    lines += [
        *_TOOLS,
        *map(_tree_html, problems),
        *_tables(document),
        *map(_tree_html, others),
        f'<script type="application/json" id="rows">{_as_json(trees)}</script>',
        f"<script>{_resource('page.js')}</script>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


_TOOLS: Final = (
    '<div class="tools"><input id="search" type="search" '
    'placeholder="Search: words of names, shapes, reasons" aria-label="Search">',
    '<button id="unfold" type="button">Unfold all</button>',
    '<button id="fold" type="button">Fold all</button>',
    '<span id="count" role="status"></span>',
    '<span class="legend">bars: share of the scope above</span></div>',
    "<noscript><p>The trees need JavaScript.</p></noscript>",
)


def _trees(
    document: Mapping[str, Any], sizes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """All trees, in the order in which the page shows them."""
    unused = document.get("unused", {})

    def gaps(key: str) -> list[Row]:
        return [
            (gap["source"], gap["leaf"], gap["reason"], None)
            for gap in document.get(key, ())
        ]

    def not_used(key: str) -> list[Row]:
        return [(name, "", "", sizes.get(name)) for name in unused.get(key, ())]

    gone = {gap["leaf"] for key in _GAPS for gap in document.get(key, ())}
    kept: list[Row] = [
        ("", leaf, "", None) for leaf in document.get("kept", ()) if leaf not in gone
    ]
    loaded = list(map(_loaded_row, document.get("assignments", ())))
    return [
        _tree("Missing in the checkpoint", "problem", _LEAF, gaps("missing")),
        _tree("Mismatched", "problem", _LEAF, gaps("mismatched")),
        _tree("Loaded", "loaded", _LEAF, loaded),
        _tree("Kept as they are", "kept", _LEAF, kept),
        _tree("Unused in the checkpoint", "unused", _SOURCE, not_used("variables")),
        _tree("Unused moving averages", "unused", _SOURCE, not_used("averages")),
        _tree("Unused optimizer slots", "unused", _SOURCE, not_used("optimizer_slots")),
    ]


_GAPS: Final = ("missing", "mismatched")


def _tree(title: str, kind: str, side: int, rows: list[Row]) -> dict[str, Any]:
    escaped = [(printable(row[0]), printable(row[1]), *row[2:]) for row in rows]
    return {"title": title, "kind": kind, "side": side, "rows": escaped}


def _loaded_row(assignment: Mapping[str, Any]) -> Row:
    source = assignment["expression"] or assignment["source"]
    if region := assignment["region"]:
        ranges = ", ".join(f"{start}:{stop}" for start, stop in region)
        source = f"{source}[{ranges}]"
    shape = ", ".join(map(str, assignment["shape"]))
    dtypes = " -> ".join(assignment["casts"])
    note = f"[{shape}] {dtypes} · entry {assignment['rule']['number']}"
    return source, assignment["leaf"], note, assignment["nbytes"]


def _tree_html(tree: Mapping[str, Any]) -> str:
    """The place of a tree; `page.js` fills it."""
    # What training adds is rarely looked for.
    is_open = tree["kind"] != "unused" or tree["title"].endswith("checkpoint")
    attribute = " open" if is_open else ""
    return (
        f"<details{attribute}><summary>{tree['title']} ({len(tree['rows'])})</summary>"
        '<div class="row head"><span>checkpoint</span><span>leaf</span>'
        '<span class="note"></span><span class="size">bytes</span><span></span></div>'
        f'<div class="tree" id="{tree["id"]}"></div></details>'
    )


def _tables(document: Mapping[str, Any]) -> list[str]:
    """Problems that are no rows of a tree."""
    placement = document.get("placement", {})
    tables = [
        _table(
            "Entries that matched nothing",
            (),
            [(entry,) for entry in document.get("unused_rules", ())],
        ),
        _table(
            "Overridden entries",
            ("leaf", "entry of the map", "overridden by"),
            [
                (row["leaf"], row["entry"], row["by"])
                for row in document.get("overridden", ())
            ],
        ),
        _table(
            "Half-loaded normalisations",
            ("scale or bias of", "kept as it is", "in the checkpoint"),
            [
                (norm["name"], ", ".join(norm["kept"]), ", ".join(norm["tensors"]))
                for norm in document.get("half_normalised", ())
            ],
        ),
        _table(
            "Replicated because no partition rule matches",
            (),
            [(leaf,) for leaf in placement.get("unmatched", ())],
        ),
    ]
    return [line for table in tables for line in table]


def _table(
    title: str, columns: Sequence[str], rows: list[tuple[str, ...]]
) -> list[str]:
    return table_html(f"{title} ({len(rows)})", columns, rows) if rows else []


def _summary(document: Mapping[str, Any]) -> str:
    """The numbers of the plan in one line."""
    if "assignments" not in document:
        return "There is no plan: the map itself has to be mended first."
    counts = [
        f"{counted(len(document['assignments']), 'leaf', 'leaves')} loaded "
        f"({format_nbytes(document['nbytes'])})"
    ]
    for key in (*_GAPS, "kept"):
        if document[key]:
            counts.append(f"{len(document[key])} {key}")
    unused = sum(map(len, document["unused"].values()))
    return ", ".join([*counts, f"{counted(unused, 'tensor')} unused"])


def _as_json(trees: list[dict[str, Any]]) -> str:
    """JSON that no name in it can end: `</script>` is written without its `<`."""
    text = json.dumps(trees, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _resource(name: str) -> str:
    folder = importlib.resources.files("tf2flax._cli")
    return folder.joinpath(name).read_text("utf-8")
