"""`plan --html`: what the page holds, and what it does in a browser."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from tf2flax._cli.page import render_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Does what a reader does, and leaves what it has seen in the page.
READER = """<script>
{
const rows = (tree) => [...document.querySelectorAll(`#${tree} .row`)]
  .filter((row) => !row.closest("[hidden]"))
  .map((row) => [...row.children].map((cell) => cell.textContent));
const find = (tree, leaf) => [...document.querySelectorAll(`#${tree} .row`)]
  .find((row) => row.children[1].textContent === leaf);
const width = (row) => row.querySelector(".bar").style.width;
const seen = { first: rows(LOADED), problem: rows("tree-0"),
  top: document.querySelector("details").innerText };
find(LOADED, "params/").click();
seen.clicked = rows(LOADED);
find(LOADED, "params/").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
seen.again = rows(LOADED).length;
const search = document.getElementById("search");
search.value = "LAYER_7/ q KERNEL";
search.dispatchEvent(new Event("input"));
setTimeout(() => {
  seen.matches = rows(LOADED);
  seen.widths = [...document.querySelectorAll(`#${LOADED} .row`)].map(width);
  seen.marks = document.querySelectorAll(`#${LOADED} mark`).length;
  seen.count = document.getElementById("count").innerText;
  seen.hidden = document.getElementById("tree-0").closest("details").hidden;
  document.getElementById("unfold").click();
  search.value = "";
  search.dispatchEvent(new Event("input"));
  setTimeout(() => {
    document.getElementById("fold").click();
    seen.folded = rows(LOADED).length;
    document.body.replaceChildren(JSON.stringify(seen));
  }, 300);
}, 300);
}
</script>"""


def assignment(leaf: str, source: str, nbytes: int) -> dict[str, Any]:
    return {
        "leaf": leaf, "source": source, "expression": None, "region": None,
        "shape": [nbytes // 4], "casts": ["float32"], "nbytes": nbytes,
        "rule": {"number": 1},
    }  # fmt: skip


def document(num_leaves: int) -> dict[str, Any]:
    """A plan of so many leaves in layers of eight, with what is wrong beside them."""
    assignments = [
        assignment(f"params/layer_{i}/{a}/{b}", f"enc/layer_{i}/{a}/{b}", nbytes)
        for i in range(num_leaves // 8)
        for a in "qkvo"
        for b, nbytes in (("kernel", 300), ("bias", 100))
    ]
    gap = {"leaf": "params/head/w", "source": "head/w", "reason": "not in the file"}
    return {
        "checkpoint": "/data/m.ckpt",
        "nbytes": sum(row["nbytes"] for row in assignments),
        "assignments": assignments,
        "kept": ["params/head/w", "params/extra"],
        "missing": [gap],
        "mismatched": [],
        "unused": {
            "variables": ["enc/w", "enc/w/part"],
            "averages": [],
            "optimizer_slots": ["enc/w/Adam"],
        },
        "unused_rules": ["Entry 2 `a` -> `b`"],
        "half_normalised": [],
        "placement": {"replicated": [], "unmatched": [], "unused_rules": []},
        "overridden": [],
    }


def test_a_page_is_self_contained_and_escaped() -> None:
    name = "</script><img src=x onerror=alert(1)>"
    plan = document(8)
    plan["assignments"].append(assignment(name, name, 4))
    plan["unused_rules"].append(name)
    plan["checkpoint"] = name
    page = render_page(plan, error=name, sizes={"enc/w": 40})
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert not re.search(r"https?://|\bsrc=\"|\bhref=|@import|url\(", page)
    assert "default-src 'none'" in page
    (rows,) = re.findall(r'id="rows">(.*?)</script>', page)
    trees = {tree["title"]: tree["rows"] for tree in json.loads(rows)}
    assert trees["Loaded"][-1] == [name, name, "[1] float32 · entry 1", 4]
    assert trees["Kept as they are"] == [["", "params/extra", "", None]]
    assert trees["Unused in the checkpoint"] == [
        ["enc/w", "", "", 40], ["enc/w/part", "", "", None]
    ]  # fmt: skip
    # Problems first, and open.
    assert next(iter(trees)) == "Missing in the checkpoint"
    assert page.index("Entries that matched nothing (2)") < page.index("Loaded (9)")
    assert page.count("<details open>") == 5
    assert page.count("<details>") == 1  # optimizer slots


def test_regions_and_casts() -> None:
    row = assignment("w", "part", 8) | {"region": [[0, 2], [1, 3]], "casts": ["a", "b"]}
    page = render_page(document(8) | {"assignments": [row]}, sizes={})
    assert '["part[0:2, 1:3]","w","[2] a -> b \\u00b7 entry 1",8]' in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    "num_leaves", [pytest.param(400, marks=pytest.mark.slow), 20_000]
)
def test_in_a_browser(num_leaves: int, tmp_path: pathlib.Path) -> None:
    plan = document(num_leaves)
    page = render_page(plan, error="It would fail.", sizes={"enc/w": 40})
    path = tmp_path / "plan.html"
    reader = READER.replace("LOADED", '"tree-1"')
    path.write_text(page.replace("</body>", f"{reader}</body>"))
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=20000",
            "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    (text,) = re.findall(r"<body[^>]*>(\{.*\})</body>", done.stdout, re.DOTALL)
    seen = json.loads(text.replace("&gt;", ">").replace("&lt;", "<"))
    assert seen["top"].startswith("Missing in the checkpoint (1)")
    assert seen["problem"][0][:3] == ["head/w", "params/head/w", "not in the file"]
    num_layers = num_leaves // 8
    # 50 layers fit on a screen, 2,500 are one row until they are asked for.
    top, opened = seen["first"], seen["clicked"]
    if num_layers == 50:
        top, opened = opened, top
    assert seen["again"] == len(seen["first"])
    assert top == [["enc/", "params/", f"{num_leaves:,} rows", top[0][3], ""]]
    # In the order of their numbers: 2 comes before 10.
    assert [row[1] for row in opened[1:]] == [f"layer_{i}/" for i in range(num_layers)]
    assert seen["matches"] == [
        ["enc/layer_7/q/kernel", "params/layer_7/q/kernel", "[75] float32 · entry 1",
         "300 B", ""],
    ]  # fmt: skip
    assert seen["marks"] >= 3
    assert seen["widths"] == ["100%"]
    assert seen["count"] == f"1 of {num_leaves + 5:,} rows"
    assert seen["hidden"] is True
    assert seen["folded"] == 1
