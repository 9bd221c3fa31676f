// The page: a list of all revisions, and one of them with its last hour. It only asks; see mod.rs for what.

const $ = (id) => document.getElementById(id);
const PANIC = 1, ACTIVATOR = 2, RPS = 4, UNKNOWN = 64;
// How a load balancer leads to a revision; the number is in the flags, times 8.
const GATES = ["", "pods", "changing", "activators", "held"];
const GATE_WORDS = { pods: "to its pods", changing: "changing over", activators: "to activators", held: "did not follow, so a pod stays" };
const gateOf = (flags) => GATES[(flags >> 3) & 7] ?? "";
// As urgent as they are listed.
const STATES = ["to mend", "stuck", "at max", "panic", "starting", "stopping", "undecided", "steady", "at zero"];
const TROUBLE = ["to mend", "stuck"];
const ROW_HEIGHT = 31;
// Rows drawn beyond those in sight, so that scrolling shows no gaps.
const AROUND = 12;
const PATIENCE = 10_000;

// ---- words and numbers ----

/** A number as `ebb explain` writes it: two decimals at most. */
function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const text = value.toFixed(2);
  if (value !== 0 && Number(text) === 0) return value.toExponential(1);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minutes = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const time = (at) => clock.format(at);

function ago(millis) {
  const seconds = Math.max(0, Math.round(millis / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

// ---- small parts of a document ----

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Writes only what differs, so that a screen reader is told of what is new and nothing else. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows items as children; those that say the same stay. */
function fill(parent, items, make) {
  const shown = JSON.stringify(items);
  if (parent.dataset.shown === shown) return;
  parent.dataset.shown = shown;
  parent.replaceChildren(...items.map(make));
}

function named(node, key) {
  const slash = key.indexOf("/");
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  node.replaceChildren(element("span", { class: "namespace" }, `${key.slice(0, slash)}/`), key.slice(slash + 1));
}

// ---- asking ----

class Refused extends Error {}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (!answer.ok) throw new Refused((await answer.text()).trim() || `the answer was ${answer.status}`);
  return answer.json();
}

function problem(text) {
  write($("problem"), text);
  $("problem").hidden = text === "";
}

let turn = 0;
let timer = 0;
let answered = 0;

/** Asks for what is shown, now and from then on. A view that was left asks no more. */
function show(view) {
  const mine = ++turn;
  clearTimeout(timer);
  const next = async () => {
    let pause = 2000;
    try {
      pause = await view();
      answered = Date.now();
      if (mine !== turn) return;
      problem("");
      write($("asof"), `as of ${time(answered)}`);
    } catch (error) {
      if (mine !== turn) return;
      const since = answered ? ` since ${time(answered)}` : "";
      problem(error instanceof Refused ? error.message : `No answer from the autoscaler${since}. Asking again.`);
    }
    if (!document.hidden) timer = setTimeout(next, pause);
    else timer = 0;
  };
  again = () => {
    clearTimeout(timer);
    next();
  };
  next();
}

let again = () => {};
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === 0) again();
});

// ---- the list ----

const list = { look: 0, at: 0, rows: new Map(), order: [], by: "state", down: false, only: "", current: 0, elsewhere: 0 };

async function askList() {
  const news = await ask(`ui/revisions?since=${list.look}`);
  if (news.whole) {
    const there = new Set(news.rows.map((row) => row[0]));
    for (const key of list.rows.keys()) if (!there.has(key)) list.rows.delete(key);
  }
  for (const row of news.rows) {
    const [key, state, wanted, ready, notReady, stable, panic, target, flags, turned] = row;
    const room = ready * target;
    const share = room > 0 ? stable / room : stable > 0 ? Infinity : 0;
    const path = flags & ACTIVATOR ? "activator" : "direct";
    list.rows.set(key, { key, state, wanted, ready, notReady, stable, panic, target, flags, turned, share, path });
  }
  list.look = news.look;
  list.at = news.at;
  list.elsewhere = news.elsewhere;
  arrange();
  return Math.max(1000, news.every);
}

/** Which rows are shown, in which order. The order rests while somebody points at the rows or moves through them. */
function arrange(anew = false) {
  const terms = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row) => terms.every((term) => row.key.toLowerCase().includes(term));
  const found = [...list.rows.values()].filter(fits);
  const counts = new Map();
  for (const row of found) counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
  const shown = list.only === "" ? found : found.filter((row) => row.state === list.only);
  const rests = !anew && ($("body").matches(":hover") || $("body").contains(document.activeElement));
  const current = list.order[list.current]?.key;
  if (rests) {
    const there = new Set(shown.map((row) => row.key));
    const before = new Set(list.order.map((row) => row.key));
    list.order = [...list.order.filter((row) => there.has(row.key)), ...shown.filter((row) => !before.has(row.key))]
      .map((row) => list.rows.get(row.key));
  } else {
    list.order = shown.sort(compare);
  }
  list.current = Math.max(0, anew ? 0 : list.order.findIndex((row) => row.key === current));
  drawStates(counts);
  const elsewhere = list.elsewhere > 0 ? `; ${list.elsewhere} more are another replica's` : "";
  const all = list.rows.size;
  const some = list.order.length === all ? `${all} ${all === 1 ? "revision" : "revisions"}` : `${list.order.length} of ${all} revisions`;
  write($("count"), some + elsewhere);
  drawRows();
}

function compare(one, other) {
  const { by, down } = list;
  const value = (row) => (by === "state" ? STATES.indexOf(row.state) : row[by]);
  const [a, b] = [value(one), value(other)];
  const sign = a < b ? -1 : a > b ? 1 : 0;
  return (down ? -sign : sign) || (one.key < other.key ? -1 : 1);
}

function drawStates(counts) {
  const states = STATES.filter((state) => counts.has(state) || state === list.only);
  const items = states.map((state) => [state, counts.get(state) ?? 0]);
  const parent = $("states");
  if (parent.childElementCount !== items.length || items.some(([state], at) => parent.children[at].dataset.state !== state)) {
    const focused = document.activeElement?.dataset.state;
    parent.replaceChildren(...items.map(([state]) => element("button", { type: "button", "data-state": state })));
    for (const button of parent.children) if (button.dataset.state === focused) button.focus();
  }
  items.forEach(([state, count], at) => {
    write(parent.children[at], `${state} ${count}`);
    parent.children[at].setAttribute("aria-pressed", String(state === list.only));
  });
}

const drawn = new Map();

function drawRows() {
  const scroller = $("scroller"), body = $("body");
  const total = list.order.length;
  $("rows").setAttribute("aria-rowcount", String(total + 1));
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - AROUND);
  const last = Math.min(total, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW_HEIGHT) + AROUND);
  const rows = list.order.slice(first, last);
  const keep = new Set(rows.map((row) => row.key));
  const focused = document.activeElement?.closest?.("tr")?.dataset.key;
  for (const [key, line] of drawn) {
    if (!keep.has(key)) {
      line.remove();
      drawn.delete(key);
    }
  }
  let before = space("above", first);
  if (body.firstChild !== before) body.prepend(before);
  rows.forEach((row, at) => {
    let line = drawn.get(row.key);
    if (!line) {
      line = lineOf(row.key);
      drawn.set(row.key, line);
    }
    if (before.nextSibling !== line) before.after(line);
    before = line;
    drawLine(line, row, first + at);
  });
  const below = space("below", total - last);
  if (before.nextSibling !== below) before.after(below);
  const none = $("none");
  if (total === 0 && list.look > 0) {
    if (!none) scroller.append(element("p", { class: "none", id: "none" }, list.rows.size ? "None is called so." : "There is no revision yet."));
  } else {
    none?.remove();
  }
  // Moved in the document, an element loses the focus.
  if (focused && drawn.has(focused) && !$("body").contains(document.activeElement)) drawn.get(focused).querySelector("a").focus({ preventScroll: true });
}

const spaces = {};

function space(which, rows) {
  if (!spaces[which]) {
    spaces[which] = element("tr", { class: "space", "aria-hidden": "true" }, element("td"));
  }
  spaces[which].firstChild.style.height = `${rows * ROW_HEIGHT}px`;
  spaces[which].hidden = rows === 0;
  return spaces[which];
}

function lineOf(key) {
  const link = element("a", { href: `#/${key}` });
  named(link, key);
  const cells = ["", "", "number", "number wider", "number wide", "number wider", "wide", "number wide"];
  const line = element("tr", { "data-key": key }, ...cells.map((kind) => element("td", kind ? { class: kind } : {})));
  line.cells[0].append(link);
  line.cells[1].append(element("span", { class: "state" }));
  return line;
}

function drawLine(line, row, place) {
  line.setAttribute("aria-rowindex", String(place + 2));
  const link = line.cells[0].firstChild, state = line.cells[1].firstChild;
  // One row is a stop for the tab key; the arrow keys lead to the others.
  link.tabIndex = place === list.current ? 0 : -1;
  if (link.title !== row.key) link.title = row.key;
  if (state.dataset.state !== row.state) state.dataset.state = row.state;
  write(state, row.state);
  write(line.cells[2], row.ready === row.wanted || row.flags & UNKNOWN ? `${row.ready}` : `${row.ready} of ${row.wanted}`);
  write(line.cells[3], row.target > 0 ? figure(row.stable) : "–");
  write(line.cells[4], row.target > 0 ? figure(row.panic) : "–");
  write(line.cells[5], row.share === 0 ? "–" : Number.isFinite(row.share) ? `${Math.round(row.share * 100)} %` : "no pod");
  write(line.cells[6], row.path);
  write(line.cells[7], ago(list.at - row.turned));
}

function go(to) {
  list.current = Math.max(0, Math.min(list.order.length - 1, to));
  const row = list.order[list.current];
  if (!row) return;
  const scroller = $("scroller"), head = $("rows").tHead.offsetHeight;
  const top = list.current * ROW_HEIGHT;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const bottom = top + ROW_HEIGHT + head - scroller.clientHeight;
  if (scroller.scrollTop < bottom) scroller.scrollTop = bottom;
  drawRows();
  drawn.get(row.key)?.querySelector("a").focus({ preventScroll: true });
}

function startList() {
  const scroller = $("scroller");
  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      drawRows();
    });
  };
  scroller.addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(soon).observe(scroller);
  const found = () => {
    scroller.scrollTop = 0;
    arrange(true);
  };
  $("search").addEventListener("input", found);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && list.order.length > 0) location.hash = `#/${list.order[0].key}`;
    if (event.key === "ArrowDown") {
      event.preventDefault();
      go(0);
    }
  });
  $("states").addEventListener("click", (event) => {
    const state = event.target.dataset?.state;
    if (!state) return;
    list.only = list.only === state ? "" : state;
    found();
  });
  const heads = [...$("rows").tHead.rows[0].cells];
  const mark = () => {
    for (const head of heads) {
      if (head.dataset.by === list.by) head.setAttribute("aria-sort", list.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  };
  for (const head of heads) {
    head.firstChild.addEventListener("click", () => {
      const by = head.dataset.by;
      // Numbers are looked at from the largest down.
      list.down = list.by === by ? !list.down : head.classList.contains("number");
      list.by = by;
      mark();
      found();
    });
  }
  mark();
  $("body").addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(scroller.clientHeight / ROW_HEIGHT) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(list.current + steps[event.key]);
  });
  $("body").addEventListener("focusin", (event) => {
    const key = event.target.closest("tr")?.dataset.key;
    const at = list.order.findIndex((row) => row.key === key);
    if (at >= 0) list.current = at;
  });
}

// ---- one revision ----

const one = { key: "", last: "15m", answer: null, moment: 1 };

async function askOne() {
  const { key, last } = one;
  let answer;
  try {
    answer = await ask(`ui/revision/${key.split("/").map(encodeURIComponent).join("/")}?last=${last}`);
  } catch (error) {
    if (error instanceof Refused && one.key === key) forgetOne();
    throw error;
  }
  if (one.key === key && one.last === last) {
    one.answer = answer;
    drawOne();
  }
  return Math.max(1000, answer.every);
}

function forgetOne() {
  one.answer = null;
  for (const id of ["facts", "rules", "ways", "changes", "starts", "drawing", "notes"]) {
    $(id).replaceChildren();
    delete $(id).dataset.shown;
  }
  chart = null;
  $("one").classList.add("empty");
  write($("sentence"), "");
  $("one-state").hidden = true;
}

function drawOne() {
  const { account } = one.answer;
  $("one").classList.remove("empty");
  document.title = `${account.state}: ${account.revision} – Ebb`;
  const state = $("one-state");
  state.hidden = false;
  if (state.dataset.state !== account.state) state.dataset.state = account.state;
  write(state, account.state);
  write($("sentence"), account.sentence);
  $("notes").hidden = account.notes.length === 0;
  fill($("notes"), account.notes, (note) => element("li", {}, note));
  fill($("facts"), account.facts.flat(), (text) => element("dd", {}, text));
  // Names and values take turns.
  [...$("facts").children].forEach((child, at) => {
    if (at % 2 === 0 && child.tagName === "DD") child.replaceWith(element("dt", {}, child.textContent));
  });
  fill($("rules"), account.words, ({ text, decides }) => {
    const item = element("li", decides ? { class: "deciding" } : {}, text);
    if (decides) item.append(element("span", { class: "hidden" }, " (this one decided)"));
    return item;
  });
  fill($("ways"), account.wouldChange, (way) => element("li", {}, way));
  const changes = [...account.changes].reverse();
  const none = { none: `none in the last ${account.since}` };
  fill($("changes"), changes.length ? changes : [none], (change) => {
    if (change.none) return element("tr", {}, element("td", { colspan: "3" }, change.none));
    const at = element("time", { datetime: change.at }, time(Date.parse(change.at)));
    return element("tr", {}, element("td", { class: "short" }, at),
      element("td", { class: "short" }, `${change.from} → ${change.to}`), element("td", {}, change.because));
  });
  $("cold").hidden = account.coldStarts.length === 0;
  fill($("starts"), [...account.coldStarts].reverse(), drawStart);
  drawChart();
}

const PARTS_OF_START = {
  stat: "deciding", decision: "deciding", patch: "deciding", scheduled: "starting", started: "starting", ready: "starting",
  routed: "answering", first_byte: "answering",
};

/** A bar as long as the start took, and the same in words. */
function drawStart({ at, seconds, phases, text }) {
  const bar = shape("svg", { class: "bar-of", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
  let left = 0;
  for (const phase of phases) {
    const width = seconds > 0 ? (100 * phase.seconds) / seconds : 0;
    bar.append(shape("rect", { class: PARTS_OF_START[phase.phase], x: left, y: 0, width, height: 8 }));
    left += width;
  }
  const words = text.slice(text.indexOf(": ") + 2);
  return element("tr", {},
    element("td", { class: "short" }, element("time", { datetime: at }, time(Date.parse(at)))),
    element("td", { class: "short" }, text.split(":")[0]),
    element("td", {}, bar, words));
}

// ---- the chart ----

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 10;
// Of load and of pods: the space above, and the height.
const PARTS = { load: [8, 150], pods: [8, 96] };
// Each strip with its name above it.
const STRIP = 27;
let chart = null;

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A round number at or above the largest value, and a step that divides it. */
function scale(most, whole) {
  const raw = Math.max(most, whole ? 1 : 1e-9) / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  if (whole) step = Math.max(1, Math.ceil(step));
  return { top: Math.max(step, Math.ceil(most / step) * step), step };
}

function legendOf(...parts) {
  return element("p", { class: "legend" }, ...parts.map(([kind, name, id, title]) =>
    element("span", title ? { title } : {}, element("i", { class: kind }), `${name} `, element("b", { "data-read": id }, "–"))));
}

function frame() {
  const loadLegend = legendOf(
    ["stable", "stable window", "stable", "Load over the stable window"],
    ["panic", "panic window", "panic", "Load over the panic window"],
    ["room", "room at target", "room", "What the ready pods should carry: pods ready times the target of each"]);
  const podsLegend = legendOf(["wanted", "pods wanted", "wanted"], ["ready", "ready", "ready"], ["unready", "not ready", "unready"]);
  const load = shape("svg", { "aria-hidden": "true" }), pods = shape("svg", { "aria-hidden": "true" });
  const gate = element("p", { class: "legend", hidden: "" }, element("span", {}, "load balancer ", element("b", { "data-read": "gate" }, "–")),
    ...Object.entries(GATE_WORDS).map(([kind, words]) => element("span", {}, element("i", { class: `gate-${kind}` }), words)));
  $("drawing").replaceChildren(loadLegend, load, podsLegend, pods, gate);
  chart = { load, pods, gate, reads: {} };
  for (const node of $("drawing").querySelectorAll("[data-read]")) chart.reads[node.dataset.read] = node;
  for (const svg of [load, pods]) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
      chart.pointed = Math.max(0, Math.min(1, share));
      read();
    });
    svg.addEventListener("pointerleave", () => {
      chart.pointed = undefined;
      read();
    });
  }
}

function drawChart() {
  if (!chart) frame();
  const { points, account } = one.answer;
  const width = Math.max(280, $("drawing").clientWidth);
  const to = Date.parse(account.at), from = to - span(one.last);
  Object.assign(chart, { width, from, to });
  const x = (at) => LEFT + ((Math.max(from, Math.min(to, at)) - from) / (to - from)) * (width - LEFT - RIGHT);
  chart.x = x;
  const { at, stable, panic, target, wanted, ready, notReady, flags, state } = points;
  const count = at.length;
  const room = ready.map((pods, index) => pods * target[index]);

  // Load.
  const [top, height] = PARTS.load;
  const peak = Math.max(...stable, ...panic, 0);
  // Room far above all load would flatten what matters.
  const roomy = Math.max(...room, 0);
  const loads = scale(Math.max(peak, Math.min(roomy, 2 * peak || roomy), target[count - 1] || 1), false);
  const y = (value) => top + height * (1 - Math.min(value, loads.top * 1.05) / loads.top);
  const parts = [];
  for (let value = 0; value <= loads.top + loads.step / 2; value += loads.step) {
    parts.push(shape("line", { class: value === 0 ? "base" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, figure(value)));
  }
  const known = target.map((each) => each > 0);
  parts.push(shape("path", { class: "room", d: steps(at, room, x, y) }));
  parts.push(shape("path", { class: "panic", d: line(at, panic, known, x, y) }));
  parts.push(shape("path", { class: "stable", d: line(at, stable, known, x, y) }));
  const loadHeight = top + height + 4;
  chart.load.setAttribute("viewBox", `0 0 ${width} ${loadHeight}`);
  chart.load.setAttribute("height", loadHeight);
  chart.loadCursor = shape("line", { class: "cursor", y1: top, y2: top + height });
  chart.load.replaceChildren(...parts, chart.loadCursor);

  // Pods, with the strips and the axis beneath.
  const [podsTop, podsHeight] = PARTS.pods;
  const both = ready.map((pods, index) => pods + notReady[index]);
  const most = scale(Math.max(...wanted, ...both, 1), true);
  const v = (value) => podsTop + podsHeight * (1 - value / most.top);
  const drawn = [];
  for (let value = 0; value <= most.top; value += most.step) {
    drawn.push(shape("line", { class: value === 0 ? "base" : "grid", x1: LEFT, x2: width - RIGHT, y1: v(value), y2: v(value) }));
    drawn.push(shape("text", { x: LEFT - 6, y: v(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const tick = ticks(to - from, width);
  const firstTick = Math.ceil(from / tick) * tick;
  for (let at = firstTick; at <= to; at += tick) {
    drawn.push(shape("line", { class: "grid", x1: x(at), x2: x(at), y1: podsTop, y2: podsTop + podsHeight }));
  }
  if (count > 0) {
    const area = (values) => `${steps(at, values, x, v)}V${v(0)}H${x(at[0])}Z`;
    drawn.push(shape("path", { class: "unready", d: area(both) }), shape("path", { class: "ready", d: area(ready) }));
    drawn.push(shape("path", { class: "wanted", d: steps(at, wanted, x, v, flags.map((flag) => !(flag & UNKNOWN))) }));
  }
  for (const change of account.changes) {
    const when = Date.parse(change.at);
    if (when < from || when > to) continue;
    const [cx, base] = [x(when), podsTop + podsHeight];
    const up = change.to > change.from;
    drawn.push(shape("path", { class: "change", d: up ? `M${cx - 4} ${base + 9}h8l-4 -7z` : `M${cx - 4} ${base + 2}h8l-4 7z` }));
  }
  const rows = [
    ["panic", flags.map((flag) => (flag & PANIC ? "panicking" : ""))],
    ["activator in path", flags.map((flag) => (flag & ACTIVATOR ? "activator" : ""))],
    ["stuck or to mend", state.map((word) => (TROUBLE.includes(word) ? "trouble" : ""))],
  ];
  chart.gate.hidden = !flags.some(gateOf);
  if (!chart.gate.hidden) rows.push(["load balancer", flags.map((flag) => (gateOf(flag) ? `gate-${gateOf(flag)}` : ""))]);
  let below = podsTop + podsHeight + 18;
  for (const [name, kinds] of rows) {
    drawn.push(shape("rect", { class: "strip", x: LEFT, y: below + 8, width: width - LEFT - RIGHT, height: 7, rx: 2 }));
    for (const [start, end, kind] of spans(at, kinds, to)) {
      const left = x(start);
      drawn.push(shape("rect", { class: `strip ${kind}`, x: left, y: below + 8, width: Math.max(1, x(end) - left), height: 7, rx: 2 }));
    }
    drawn.push(shape("text", { x: LEFT, y: below + 4 }, name));
    below += STRIP;
  }
  const axis = below + 10;
  for (let at = firstTick; at <= to; at += tick) {
    const edge = x(at) > width - 30 ? "end" : x(at) < LEFT + 16 ? "start" : "middle";
    drawn.push(shape("text", { x: x(at), y: axis, "text-anchor": edge }, minutes.format(at)));
  }
  chart.pods.setAttribute("viewBox", `0 0 ${width} ${axis + 6}`);
  chart.pods.setAttribute("height", axis + 6);
  chart.podsCursor = shape("line", { class: "cursor", y1: podsTop, y2: below - 4 });
  chart.pods.replaceChildren(...drawn, chart.podsCursor);
  read();
}

const span = (last) => ({ "5m": 300_000, "15m": 900_000, "1h": 3_600_000 })[last];

function ticks(length, width) {
  const most = Math.max(2, Math.floor((width - LEFT - RIGHT) / 90));
  return [60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000].find((step) => length / step <= most) ?? 3_600_000;
}

/** Averages move from look to look; a value holds where nothing was kept because nothing changed. */
function line(at, values, known, x, y) {
  let path = "";
  for (let index = 0; index < at.length; index++) {
    // Before the first decision there is no load to draw.
    if (!known[index]) continue;
    const place = `${x(at[index]).toFixed(1)} ${y(values[index]).toFixed(1)}`;
    if (path === "" || !known[index - 1]) path += `M${place}`;
    // A gap longer than a few looks was rest: the value held until just before the next point.
    else if (at[index] - at[index - 1] > 10_000) {
      path += `H${x(at[index] - 2000).toFixed(1)}L${place}`;
    } else path += `L${place}`;
  }
  return path;
}

/** Numbers of pods jump; where one is not known there is no line. */
function steps(at, values, x, y, known = values.map(() => true)) {
  let path = "";
  for (let index = 0; index < at.length; index++) {
    const h = x(at[index]).toFixed(1), v = y(values[index]).toFixed(1);
    if (!known[index]) {
      if (known[index - 1]) path += `H${h}`;
    } else path += known[index - 1] ? `H${h}V${v}` : `M${h} ${v}`;
  }
  return path;
}

/** From when to when it was of which kind. */
function* spans(at, kinds, to) {
  let first = 0;
  for (let index = 1; index <= at.length; index++) {
    if (index < at.length && kinds[index] === kinds[first]) continue;
    if (kinds[first]) yield [at[first], at[index] ?? to, kinds[first]];
    first = index;
  }
}

/** Shows the values of the moment pointed at, or chosen with the slider, or now. */
function read() {
  if (!chart || !one.answer) return;
  const { points } = one.answer;
  const share = chart.pointed ?? one.moment;
  const at = chart.from + share * (chart.to - chart.from);
  let index = points.at.findLastIndex((point) => point <= at);
  const known = index >= 0;
  index = Math.max(0, index);
  const now = share >= 1;
  for (const cursor of [chart.loadCursor, chart.podsCursor]) {
    cursor.setAttribute("x1", chart.x(at));
    cursor.setAttribute("x2", chart.x(at));
    cursor.setAttribute("visibility", now ? "hidden" : "visible");
  }
  const value = (name) => (known ? points[name][index] : undefined);
  const unit = value("flags") & RPS ? " per second" : " in flight";
  const ready = value("ready"), target = value("target");
  const texts = known
    ? {
        stable: target > 0 ? figure(value("stable")) + unit : "not known",
        panic: target > 0 ? figure(value("panic")) + unit : "not known",
        room: target > 0 ? `${figure(ready * target)} (${ready} × ${figure(target)})` : "not known",
        wanted: value("flags") & UNKNOWN ? "not known" : String(value("wanted")),
        ready: String(ready),
        unready: String(value("notReady")),
        gate: GATE_WORDS[gateOf(value("flags"))] ?? "–",
      }
    : {};
  for (const [name, node] of Object.entries(chart.reads)) write(node, texts[name] ?? "–");
  const flags = value("flags");
  const words = known
    ? `stable window ${texts.stable}, panic window ${texts.panic}, room at target ${target > 0 ? figure(ready * target) : texts.room}, ${texts.wanted}${value("flags") & UNKNOWN ? " how many" : ""} pods wanted, ` +
      `${texts.ready} ready, ${texts.unready} not ready, ${flags & PANIC ? "panic" : "no panic"}, ` +
      `activator ${flags & ACTIVATOR ? "in" : "not in"} the path, ` +
      `${gateOf(flags) ? `load balancer ${texts.gate}, ` : ""}${value("state")}`
    : "nothing is known";
  $("moment").setAttribute("aria-valuetext", `${now ? "now" : time(at)}: ${words}`);
  write($("chart-title"), now ? "The last " + { "5m": "5 minutes", "15m": "15 minutes", "1h": "hour" }[one.last] : `At ${time(at)}`);
}

function startOne() {
  $("last").addEventListener("change", (event) => {
    one.last = event.target.value;
    again();
  });
  $("moment").addEventListener("input", () => {
    one.moment = Number($("moment").value) / 1000;
    read();
  });
  new ResizeObserver(() => {
    if (one.answer && chart && Math.max(280, $("drawing").clientWidth) !== chart.width) drawChart();
  }).observe($("drawing"));
}

// ---- which of the two ----

/** What somebody typed may not be encoded. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route(first = false) {
  const key = decoded(location.hash.replace(/^#\/?/, ""));
  const isOne = /^[^/]+\/[^/]+$/.test(key);
  $("list").hidden = isOne;
  $("one").hidden = !isOne;
  problem("");
  if (isOne) {
    if (one.key !== key) forgetOne();
    Object.assign(one, { key, moment: 1 });
    $("moment").value = "1000";
    named($("one-title"), key);
    document.title = `${key} – Ebb`;
    if (!first) $("main").focus({ preventScroll: true });
    scrollTo(0, 0);
    show(askOne);
  } else {
    const from = one.key;
    one.key = "";
    document.title = "Revisions – Ebb";
    show(askList);
    drawRows();
    const at = list.order.findIndex((row) => row.key === from);
    if (!first && at >= 0) go(at);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const writes = event.target.matches("input[type=search]");
  if (event.key === "/" && !writes && !$("list").hidden) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape" && !$("one").hidden) {
    location.hash = "#/";
  } else if (event.key === "Escape" && writes && $("search").value !== "") {
    event.preventDefault();
    $("search").value = "";
    arrange(true);
  }
});
window.addEventListener("hashchange", () => route());
document.querySelector(".skip").addEventListener("click", (event) => {
  // Another fragment would lead to another view.
  event.preventDefault();
  $("main").focus();
});
startList();
startOne();
route(true);
