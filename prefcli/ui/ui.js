"use strict";
// The pages of `prefcli ui`. Nothing that comes from a model is ever parsed as HTML: elements are made, text is text.

const BASE = document.body.dataset.base;
const $ = (id) => document.getElementById(id);

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

/** What the server answers; an Error with its `status` and words where it refuses or is gone. */
async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(BASE + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}) });
  } catch {
    throw Object.assign(new Error("The server does not answer. What you decided is on disk: start prefcli ui again and open its new address."), { status: 0 });
  }
  const found = await answer.json().catch(() => ({ error: "This address is no longer valid: open the one that prefcli ui printed." }));
  if (!answer.ok) throw Object.assign(new Error([found.error, found.hint].filter(Boolean).join(". ")), { status: answer.status });
  return found;
}

// Text as it is shown

// Control characters, and marks that turn a line round: they could make a text look like another one.
const UNFIT = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const visible = (text) => text.replace(/\r\n/g, "\n").replace(UNFIT, "\ufffd");

/** Inline Markdown: `code`, **bold**, *emphasis*. */
function inline(text) {
  if (text.length > 2000) return [text]; // unmatched marks in a very long line would take long to look for
  const parts = [];
  const marks = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*(\S|\S[^]*?\S)\*\*|(?<![\w*])\*(\S|\S[^*]*?\S)\*(?![\w*])/g;
  let from = 0;
  for (const match of text.matchAll(marks)) {
    parts.push(text.slice(from, match.index));
    if (match[2] !== undefined) parts.push(el("code", {}, match[2]));
    else if (match[3] !== undefined) parts.push(el("strong", {}, match[3]));
    else parts.push(el("em", {}, match[4]));
    from = match.index + match[0].length;
  }
  return [...parts, text.slice(from)];
}

/** A text as an element: fenced code, headings, lists and paragraphs where `plain` is false; links stay text. */
function rendered(text, plain) {
  const box = el("div", { class: "text", dir: "auto" });
  text = visible(text);
  if (!text.trim()) box.append(el("span", { class: "none" }, text ? "(blanks alone)" : "(empty)"));
  else if (plain) box.append(text);
  else for (const [number, part] of text.split(/^[ \t]*(?:`{3,}|~{3,})([^`\n]*)$/m).entries()) {
    // Every fence gives two parts: what stands behind it (before code its language), and what follows it.
    if (number % 4 === 2) box.append(el("pre", { tabindex: "0" }, el("code", {}, part.replace(/^\n|\n$/g, ""))));
    else if (number % 4 !== 1 && part.trim()) box.append(...blocks(part));
  }
  return box;
}

function blocks(text) {
  const found = [];
  for (const block of text.split(/\n{2,}/)) {
    let list = null;
    for (const line of block.split("\n")) {
      const item = line.match(/^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/);
      const heading = line.match(/^#{1,6}\s+(.*?)\s*#*$/);
      if (item) {
        const tag = item[1] ? "OL" : "UL";
        if (!list || list.tagName !== tag) found.push((list = el(tag, item[1] ? { start: item[1] } : {})));
        list.append(el("li", {}, ...inline(item[2])));
      } else {
        list = null;
        const last = found.at(-1);
        if (heading) found.push(el("p", { class: "heading" }, ...inline(heading[1])));
        else if (last && last.dataset.open) last.append("\n", ...inline(line));
        else if (line.trim()) found.push(el("p", { "data-open": "1" }, ...inline(line)));
      }
    }
    if (found.length) delete found.at(-1).dataset.open;
  }
  return found;
}

/** A prompt: its messages with who said them, or a text. */
function dialogue(prompt, plain) {
  const turns = typeof prompt === "string" ? [{ role: "", content: prompt }] : prompt;
  return turns.map((turn) => el("div", { class: "turn " + turn.role }, ...(turn.role ? [el("p", { class: "who" }, turn.role)] : []), rendered(turn.content, plain)));
}

function table(head, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": head[0] }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", {}, String(text))))))));
}

// Watch

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const short = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(3))));

/** A panel as an SVG of its own: the series over the steps, alarms as broken lines. */
function chart(panel, alarms) {
  const [width, height, left, right, top, bottom] = [340, 176, 46, 12, 22, 26];
  const points = panel.series.flatMap((series) => series.points);
  const steps = points.map((point) => point[0]), values = points.map((point) => point[1]);
  const least = (all) => all.reduce((a, b) => Math.min(a, b)), most = (all) => all.reduce((a, b) => Math.max(a, b));
  const [x0, x1] = [least(steps), most(steps)], [low, high] = [least(values), most(values)];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  const [y0, y1] = [low - room, high + room];
  const x = (step) => left + ((step - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const told = panel.series.map((series) => `${series.name} ${short(series.points[0][1])} at step ${series.points[0][0]}, ${short(series.points.at(-1)[1])} at step ${series.points.at(-1)[0]}`).join("; ");
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart live", role: "img", "aria-label": `${panel.title}: ${told}` });
  for (const value of [low, (low + high) / 2, high].slice(0, high > low ? 3 : 1)) {
    made.append(svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid-line" }));
    made.append(svg("text", { x: left - 6, y: y(value) + 4, class: "tick end" }, short(value)));
  }
  made.append(svg("text", { x: left, y: height - 6, class: "tick" }, String(x0)), svg("text", { x: width - right, y: height - 6, class: "tick end" }, x1 > x0 ? `step ${x1}` : ""));
  for (const [step] of alarms) if (step >= x0 && step <= x1) made.append(svg("line", { x1: x(step), x2: x(step), y1: top, y2: height - bottom, class: "alarm-line" }));
  let across = left;
  panel.series.forEach((series, number) => {
    const colour = `series-${(number % 6) + 1}`;
    if (series.points.length > 1) made.append(svg("polyline", { points: series.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "), class: "line " + colour }));
    else made.append(svg("circle", { cx: x(series.points[0][0]), cy: y(series.points[0][1]), r: 3, class: "dot " + colour }));
    if (panel.series.length > 1 && across < width - 60) made.append(svg("text", { x: across, y: 12, class: "name " + colour }, series.name));
    across += 7 * series.name.length + 12;
  });
  return made;
}

function runPage() {
  for (const lineage of document.querySelectorAll("svg.lineage")) lineage.style.maxWidth = lineage.viewBox.baseVal.width + "px";
  const page = $("run");
  let events = null, over = false;

  function drawn(event) {
    const log = JSON.parse(event.data);
    const last = log.log.at(-1);
    if (page.dataset.state === "running" && last) $("result").textContent = "step " + last.step;
    $("curves").replaceChildren(...log.panels.map((panel) => el("figure", {}, el("h3", {}, panel.title[0].toUpperCase() + panel.title.slice(1)), chart(panel, log.alarms))));
    const steps = {};
    for (const [step, name] of log.alarms) (steps[name] ||= []).push(step);
    $("alarms").textContent = "Alarms: " + Object.entries(steps).map(([name, at]) => `${name} at step ${at.join(", ")}`).join("; ");
    $("alarms").hidden = !log.alarms.length;
    const { step, samples = [] } = log.samples;
    $("samples").hidden = !samples.length;
    $("samples-title").textContent = "Answers of rollout " + step;
    $("answers").replaceChildren(...samples.map((one) => el("article", { class: "answer" }, el("p", { class: "quiet text" }, one.prompt),
      el("p", { class: "text" }, one.completion), el("p", { class: "quiet" }, "score " + short(one.score)))));
    const names = [...new Set(log.log.flatMap((row) => Object.keys(row)))];
    $("log").replaceChildren(el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...log.log.toReversed().map((row) => el("tr", {}, ...names.map((name) => el("td", { class: "n" }, typeof row[name] === "number" ? short(row[name]) : String(row[name] ?? "")))))));
  }

  function changed(event) {
    const { state } = JSON.parse(event.data);
    if (!["running", "interrupted"].includes(state)) {
      over = true;
      events.close();
    }
    if (state === "gone") location.href = BASE;
    else if (state !== page.dataset.state) location.reload();
  }

  // A browser has few connections to a server: pages that nobody looks at hold none.
  function follow() {
    if (over) return;
    if (events) events.close();
    events = document.hidden ? null : new EventSource(page.dataset.address + "/events");
    if (!events) return;
    events.addEventListener("log", drawn);
    events.addEventListener("state", changed);
  }

  follow();
  document.addEventListener("visibilitychange", follow);
  if ($("stop")) $("stop").addEventListener("click", async () => {
    $("stop").disabled = true;
    try {
      await ask(page.dataset.address.slice(BASE.length) + "/stop");
      say("It stops when this step has ended, and its state is kept.");
    } catch (error) {
      $("stop").disabled = false;
      say(error.message);
    }
  });
}

function startPage() {
  setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch(BASE + "states").catch(() => null);
    if (!answer || !answer.ok) return;
    const { runs } = await answer.json(), rows = [...document.querySelectorAll("#runs tbody tr")];
    const same = runs.length === rows.length && runs.every(([ref, state], place) => rows[place].dataset.ref === ref && rows[place].dataset.state === state);
    if (!same) location.reload();
    else runs.forEach(([, , result], place) => { rows[place].lastElementChild.textContent = result; });
  }, 2000);
}

const watches = { start: startPage, run: runPage }[document.body.dataset.page];
if (watches) watches();
