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
  else for (const [number, part] of text.split(/^[ \t]*(?:```|~~~)(.*)$/m).entries()) {
    // Every fence gives two parts: what stands behind it, and what follows it.
    if (number % 4 === 2) box.append(el("pre", { tabindex: "0" }, el("code", {}, part.replace(/^\n|\n$/g, ""))));
    else if (number % 2 === 0 && part.trim()) box.append(...blocks(part));
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

// Label

function labelPage() {
  const kind = $("desk").dataset.kind, reasons = JSON.parse($("desk").dataset.reasons);
  const VERDICTS = {
    pairs: [["left", "Left is better", "←"], ["right", "Right is better", "→"], ["tie", "Tie", "t"], ["skip", "Skip", "s"], ["edit", "Edit the better one", "e"], ["undo", "Undo", "u"]],
    binary: [["good", "Good", "g"], ["bad", "Bad", "b"], ["skip", "Skip", "s"], ["undo", "Undo", "u"]],
    ranking: [["skip", "Skip", "s"], ["undo", "Undo", "u"]],
  }[kind];
  const KEYS = { ArrowLeft: "left", l: "left", ArrowRight: "right", r: "right", ArrowUp: "good", g: "good", ArrowDown: "bad", b: "bad", t: "tie", s: "skip", e: "edit", u: "undo", Backspace: "back" };
  let by = "", question = null, busy = false, ranking = [], picking = false, chosen = null;
  const known = new Set(VERDICTS.map(([name]) => name));

  for (const [name, title, key] of VERDICTS) {
    $("actions").append(el("button", { type: "button", "data-verdict": name, onclick: () => act(name) }, title, " ", el("kbd", {}, key)));
  }
  reasons.forEach((reason, number) => {
    const key = kind !== "ranking" && number < 9 ? [" ", el("kbd", {}, String(number + 1))] : [];
    $("reasons").append(el("label", {}, el("input", { type: "checkbox", value: reason }), " ", reason, ...key));
  });
  $("reasons").hidden = !reasons.length;
  $("by").value = localStorage.getItem("prefcli-by") || "";
  $("by").focus();

  $("who").addEventListener("submit", async (event) => {
    event.preventDefault();
    by = $("by").value;
    if (await send("label/next", {})) {
      localStorage.setItem("prefcli-by", by);
      $("who").hidden = true;
      $("work").hidden = false;
      document.activeElement.blur();
    }
  });
  $("plain").addEventListener("change", show);
  $("report").addEventListener("click", figures);
  document.addEventListener("keydown", pressed);

  /** Whether the server took it; what it answers is shown. */
  async function send(path, body) {
    if (busy) return false;
    busy = true;
    try {
      take(await ask(path, { by, ...body }));
      say("");
      return true;
    } catch (error) {
      if (error.status === 409) {
        busy = false;
        await send("label/next", {});
      }
      say(error.message);
      return false;
    } finally {
      busy = false;
    }
  }

  function take(state) {
    question = state.question;
    ranking = [];
    for (const box of $("reasons").querySelectorAll("input")) box.checked = false;
    $("comment").value = "";
    const { mine, left, minutes } = state.progress;
    $("bar").max = mine + left || 1;
    $("bar").value = mine;
    $("progress").textContent = `${mine} decided, ${left} left` + (minutes && left ? `, about ${minutes} min` : "");
    show();
    scrollTo(0, 0);
  }

  function show() {
    const plain = $("plain").checked;
    $("question").hidden = $("remarks").hidden = !question;
    $("finished").hidden = !!question;
    if (!question) return;
    $("dialogue").replaceChildren(...dialogue(question.prompt, plain));
    const titles = { pairs: ["Left", "Right"], binary: ["Answer"] }[kind];
    $("answers").className = "answers " + kind;
    $("answers").replaceChildren(...question.answers.map((text, place) => {
      const title = titles ? titles[place] : `Answer ${place + 1}`, id = "answer-" + place;
      const rank = ranking.indexOf(place);
      const head = kind === "ranking"
        ? el("button", { type: "button", "aria-pressed": String(rank >= 0), onclick: () => ranked(place) }, title, " ", el("kbd", {}, String(place + 1)), rank >= 0 ? ` – rank ${rank + 1}` : "")
        : title;
      return el("article", { class: "answer" + (rank >= 0 ? " ranked" : ""), "aria-labelledby": id }, el("h2", { id }, head), rendered(text, plain));
    }));
  }

  function ranked(place) {
    if (busy || !question) return;
    const at = ranking.indexOf(place);
    ranking = at >= 0 ? ranking.slice(0, at) : [...ranking, place];
    if (ranking.length === question.answers.length - 1) ranking.push(question.answers.findIndex((_, other) => !ranking.includes(other)));
    show();
    $("progress").textContent = ranking.length ? "Ranked: " + ranking.map((one) => one + 1).join(" > ") : "";
    if (ranking.length === question.answers.length) decide(ranking);
  }

  function decide(verdict, text) {
    const ticked = [...$("reasons").querySelectorAll("input:checked")].map((box) => box.value);
    return send("label/decide", { id: question.id, verdict, comment: $("comment").value, reasons: ticked, ...(text === undefined ? {} : { text }) });
  }

  function act(name) {
    if (name === "undo") return send("label/undo", {});
    if (!question) return;
    if (name === "edit") return edit();
    return decide(name);
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("work").hidden) return;
    if ($("editor").open) {
      if (picking && (KEYS[event.key] === "left" || KEYS[event.key] === "right")) {
        event.preventDefault();
        pick(KEYS[event.key]);
      }
      return;
    }
    if (event.target.matches("textarea, input:not([type=checkbox])")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (!$("keys").checked || event.repeat) return;
    const action = KEYS[event.key];
    if (/^[1-9]$/.test(event.key) && question) {
      const number = Number(event.key) - 1;
      if (kind === "ranking" && number < question.answers.length) ranked(number);
      const box = kind !== "ranking" && $("reasons").querySelectorAll("input")[number];
      if (box) box.checked = !box.checked;
    } else if (action === "back" && kind === "ranking" && ranking.length) ranked(ranking.at(-1));
    else if (event.key === "c" && question) $("comment").focus();
    else if (event.key === "m") {
      $("plain").checked = !$("plain").checked;
      show();
    } else if (known.has(action)) act(action);
    else return;
    event.preventDefault();
  }

  // The editor of the better answer

  function edit() {
    picking = true;
    $("editor-sides").hidden = false;
    $("editor-text").hidden = $("editor-save").hidden = true;
    $("editor").showModal();
  }

  function pick(side) {
    picking = false;
    chosen = side;
    $("editor-sides").hidden = true;
    $("editor-text").hidden = $("editor-save").hidden = false;
    $("editor-text").value = question.answers[side === "left" ? 0 : 1];
    $("editor-text").focus();
  }

  async function save() {
    const text = $("editor-text").value;
    $("editor").close();
    await decide(chosen, text);
  }

  $("edit-left").addEventListener("click", () => pick("left"));
  $("edit-right").addEventListener("click", () => pick("right"));
  $("editor-save").addEventListener("click", save);
  $("editor-cancel").addEventListener("click", () => $("editor").close());
  $("editor-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      save();
    }
  });

  async function figures() {
    try {
      const found = await ask("label/report");
      const percent = (value) => (value === null ? "–" : Math.round(100 * value) + " %");
      const between = (ends, form) => (ends ? ` [${form(ends[0])}, ${form(ends[1])}]` : "");
      const alpha = (value) => (value === null ? "–" : value.toFixed(2));
      const agreed = (name, one) => [name, one.units, percent(one.same), alpha(one.alpha) + between(one.ci95, alpha)];
      const { all, annotators, pairs } = found.agreement;
      const first = kind === "pairs" ? "left preferred" : "upper preferred";
      $("figures").replaceChildren(
        table(["annotator", "decisions", "ties", "skips", first, "seconds, median"], found.annotators.map((one) => [one.by, one.decisions, one.ties, one.skips, percent(one.first) + between(one.first_ci95, percent), one.seconds.toFixed(1)])),
        table(["agreement of", "questions", "same", "Krippendorff's α"], [agreed("all", all), ...annotators.map((one) => agreed(one.by + " with the others", one)), ...pairs.map((one) => agreed(one.by.join(" and "), one))]),
        el("p", { class: "quiet" }, "α is 1 where all agree, and 0 where they agree no more than by chance. In brackets 95 % intervals. Without bias of position 50 % prefer the left."),
      );
      $("figures").hidden = false;
    } catch (error) {
      say(error.message);
    }
  }
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
  const page = $("run"), events = new EventSource(page.dataset.address + "/events");
  events.addEventListener("log", (event) => {
    const log = JSON.parse(event.data);
    const last = log.log.at(-1);
    if (page.dataset.state === "running" && last) $("result").textContent = "step " + last.step;
    $("curves").replaceChildren(...log.panels.map((panel) => el("figure", {}, el("h3", {}, panel.title[0].toUpperCase() + panel.title.slice(1)), chart(panel, log.alarms))));
    const steps = {};
    for (const [step, name] of log.alarms) (steps[name] ||= []).push(step);
    $("alarms").textContent = "Alarms: " + Object.entries(steps).map(([name, at]) => `${name} at step ${at.join(", ")}`).join("; ");
    $("alarms").hidden = !log.alarms.length;
    const names = [...new Set(log.log.flatMap((row) => Object.keys(row)))];
    $("log").replaceChildren(el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...log.log.toReversed().map((row) => el("tr", {}, ...names.map((name) => el("td", { class: "n" }, typeof row[name] === "number" ? short(row[name]) : String(row[name] ?? "")))))));
  });
  events.addEventListener("state", (event) => {
    const { state } = JSON.parse(event.data);
    if (state !== "running") events.close();
    if (state === "gone") location.href = BASE;
    else if (state !== page.dataset.state) location.reload();
  });
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

// Chat

function chatPage() {
  const two = $("chat").dataset.two === "true";
  let current = null, heads = [];
  const busy = (is) => { for (const button of document.querySelectorAll("#chat button")) button.disabled = is; };

  async function doing(work) {
    busy(true);
    try {
      await work();
      say("");
    } catch (error) {
      say(error.message);
    }
    busy(false);
  }

  function send() {
    const text = $("text").value;
    if (!text.trim()) return;
    return doing(async () => {
      const asked = el("div", { class: "turn user" }, el("p", { class: "who" }, "you"), rendered(text, false));
      $("turns").append(asked);
      $("votes").hidden = true;
      try {
        const { id, answers } = await ask("chat/ask", { text });
        current = id;
        heads = answers.map((_, place) => el("h2", {}, two ? ["Left", "Right"][place] : "Answer"));
        $("turns").append(el("div", { class: "answers" + (two ? " pairs" : "") }, ...answers.map((answer, place) => el("article", { class: "answer" }, heads[place], rendered(answer, false)))));
        $("votes").hidden = !two;
        $("text").value = "";
      } catch (error) {
        asked.remove();
        throw error;
      }
    });
  }

  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  $("reset").addEventListener("click", () => doing(async () => {
    await ask("chat/reset");
    $("turns").replaceChildren();
    $("votes").hidden = true;
  }));
  for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => doing(async () => {
    const { names, tally } = await ask("chat/vote", { id: current, verdict: button.dataset.vote });
    names.forEach((name, place) => { heads[place].textContent += `: ${name}` + (["left", "right"][place] === button.dataset.vote ? ", preferred" : ""); });
    $("votes").hidden = true;
    const share = (value) => Math.round(100 * value) + " %";
    $("tally").textContent = tally.wins.map(([name, count]) => `${name} ${count}`).join(", ") + `, ties ${tally.ties}; ${tally.wins[0][0]} wins ${share(tally.fraction)} [${share(tally.ci95[0])}, ${share(tally.ci95[1])}]`;
    $("text").focus();
  }));
}

({ start: startPage, run: runPage, label: labelPage, chat: chatPage })[document.body.dataset.page]();
