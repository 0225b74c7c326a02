"use strict";
// Rows of each section: [checkpoint name, leaf, note, bytes]. Scopes are built from the
// names, and their members drawn when they are first opened: 20,000 rows stay readable.
const sections = JSON.parse(document.getElementById("rows").textContent);
const collator = new Intl.Collator(undefined, { numeric: true });
const SHOWN_AT_FIRST = 60; // rows of a section that are open when the page is
const OPEN_MATCHES = 300; // matches of a search that are all opened

function element(tag, className, text) {
  const result = document.createElement(tag);
  if (className) result.className = className;
  if (text !== undefined) result.textContent = text;
  return result;
}

function formatBytes(count) {
  if (count === null) return "";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return unit ? `${count.toPrecision(3)} ${units[unit]}` : `${count} B`;
}

// A tree by the names of one side: leaves, or tensors where there are none.
function build(rows, side) {
  const root = { label: "", members: new Map(), nbytes: 0, count: 0, row: null };
  for (const row of rows) {
    let node = root;
    const parts = row[side].split("/");
    for (let i = -1; i < parts.length; i++) {
      if (i >= 0) {
        const key = parts[i];
        if (!node.members.has(key)) {
          node.members.set(key, {
            label: key, members: new Map(), nbytes: 0, count: 0, row: null,
          });
        }
        node = node.members.get(key);
      }
      node.nbytes += row[3] || 0;
      node.count += 1;
    }
    if (node.row === null) node.row = row;
    else node.members.set(`\0${node.members.size}`, {
      label: parts[parts.length - 1], members: new Map(), nbytes: row[3] || 0,
      count: 1, row,
    });
  }
  return root;
}

function membersOf(node) {
  const members = [];
  for (let member of node.members.values()) {
    let label = member.label;
    // A scope that holds one scope alone is one row with it.
    while (!member.row && member.members.size === 1) {
      member = member.members.values().next().value;
      label += "/" + member.label;
    }
    if (member.row && member.members.size) {
      // `w` beside `w/Adam`: a name, and a scope of the same name.
      const own = member.row[3] || 0;
      members.push({ label, members: new Map(), nbytes: own, count: 1, row: member.row });
      const { nbytes, count } = member;
      member = { ...member, row: null, nbytes: nbytes - own, count: count - 1 };
    }
    members.push({ ...member, label });
  }
  return members.sort((a, b) => collator.compare(a.label, b.label));
}

// The longest scope that the other side's names of all rows below share.
function sharedScope(node, side) {
  let shared = null;
  const pending = [node];
  while (pending.length) {
    const next = pending.pop();
    if (next.row) {
      const parts = next.row[side].split("/").slice(0, -1);
      if (shared === null) shared = parts;
      let i = 0;
      while (i < shared.length && i < parts.length && shared[i] === parts[i]) i++;
      shared = shared.slice(0, i);
      if (!shared.length) return "";
    }
    pending.push(...next.members.values());
  }
  return shared === null ? "" : shared.join("/") + "/";
}

function marked(text, words) {
  const cell = element("span");
  const lower = text.toLowerCase();
  let at = 0;
  for (;;) {
    let start = -1, length = 0;
    for (const word of words) {
      const i = lower.indexOf(word, at);
      if (i >= 0 && (start < 0 || i < start)) [start, length] = [i, word.length];
    }
    if (start < 0) break;
    cell.append(text.slice(at, start), element("mark", "", text.slice(start, start + length)));
    at = start + length;
  }
  cell.append(text.slice(at));
  return cell;
}

function drawRow(node, depth, share, section, words) {
  const isScope = node.members.size > 0;
  const row = element("div", `row ${isScope ? "scope" : "leaf"} ${section.kind}`);
  const other = 1 - section.side;
  const cells = [];
  const name = element("span");
  name.style.paddingLeft = `${depth}em`;
  name.append(element("span", "toggle"), element("span", "dot"));
  name.append(marked(node.label + (isScope ? "/" : ""), words));
  cells[section.side] = name;
  const facing = node.row && !isScope ? node.row[other] : sharedScope(node, other);
  cells[other] = marked(facing, words);
  const note = node.row && !isScope ? node.row[2] : `${node.count.toLocaleString("en")} rows`;
  const bar = element("span", "bar");
  bar.style.width = `${100 * share}%`;
  bar.style.display = "block";
  const track = element("span", "track");
  if (node.nbytes) track.append(bar);
  const size = element("span", "size", node.nbytes ? formatBytes(node.nbytes) : "");
  row.append(...cells, element("span", "note", note), size, track);
  return row;
}

// Draws the members of a scope; gives what opens each scope among them.
function drawMembers(node, depth, section, words) {
  const list = element("ul");
  const scopes = [];
  const members = membersOf(node);
  for (const member of members) {
    const item = element("li");
    const share = node.nbytes ? member.nbytes / node.nbytes : 0;
    const row = drawRow(member, depth, share, section, words);
    item.append(row);
    list.append(item);
    if (!member.members.size) continue;
    let below = null;
    const open = (isOpen) => {
      row.setAttribute("aria-expanded", String(isOpen));
      if (isOpen && !below) {
        below = drawMembers(member, depth + 1, section, words);
        item.append(below.list);
      }
      if (below) below.list.hidden = !isOpen;
      return below;
    };
    row.tabIndex = 0;
    row.setAttribute("role", "button");
    open(false);
    const toggle = () => open(row.getAttribute("aria-expanded") !== "true");
    row.addEventListener("click", toggle);
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        toggle();
      }
    });
    scopes.push({ open, size: member.members.size });
  }
  return { list, scopes, size: members.length };
}

// Opens whole levels of scopes, as long as so many rows are open at most.
function unfold(drawn, limit) {
  let count = drawn.size;
  let scopes = drawn.scopes;
  while (scopes.length) {
    count += scopes.reduce((sum, scope) => sum + scope.size, 0);
    if (count > limit) return;
    scopes = scopes.flatMap((scope) => scope.open(true).scopes);
  }
}

function fold(drawn) {
  for (const scope of drawn.scopes) scope.open(false);
}

const drawn = new Map();

function draw(section, words) {
  const rows = words.length
    ? section.rows.filter((row) => {
        const text = `${row[0]}\n${row[1]}\n${row[2]}`.toLowerCase();
        return words.every((word) => text.includes(word));
      })
    : section.rows;
  const place = document.getElementById(section.id);
  const result = drawMembers(build(rows, section.side), 0, section, words);
  let limit = SHOWN_AT_FIRST;
  if (section.kind === "problem" || (words.length && rows.length <= OPEN_MATCHES)) {
    limit = Infinity;
  }
  unfold(result, limit);
  place.replaceChildren(result.list);
  place.closest("details").hidden = words.length > 0 && !rows.length;
  drawn.set(section, result);
  return rows.length;
}

function drawAll(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of sections) count += draw(section, words);
  const total = sections.reduce((sum, section) => sum + section.rows.length, 0);
  document.getElementById("count").textContent = words.length
    ? `${count.toLocaleString("en")} of ${total.toLocaleString("en")} rows`
    : `${total.toLocaleString("en")} rows`;
}

const search = document.getElementById("search");
let timer = 0;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => drawAll(search.value), sections.length ? 80 : 0);
});
document.getElementById("unfold").addEventListener("click", () => {
  for (const result of drawn.values()) unfold(result, Infinity);
});
document.getElementById("fold").addEventListener("click", () => {
  for (const result of drawn.values()) fold(result);
});
drawAll("");
