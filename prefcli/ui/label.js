"use strict";
// What people say: preferences, and votes between models. After ui.js, which has what all pages share.

function labelPage() {
  const kind = $("desk").dataset.kind, [reasons, objectives] = ["reasons", "objectives"].map((name) => JSON.parse($("desk").dataset[name]));
  const VERDICTS = {
    pairs: [["left", "Left is better", "←"], ["right", "Right is better", "→"], ["tie", "Tie", "t"], ["skip", "Skip", "s"], ["edit", "Edit the better one", "e"], ["undo", "Undo", "u"]],
    binary: [["good", "Good", "g"], ["bad", "Bad", "b"], ["skip", "Skip", "s"], ["undo", "Undo", "u"]],
    ranking: [["shown", "Rank as shown", "Enter"], ["skip", "Skip", "s"], ["undo", "Undo", "u"]],
  }[kind];
  const FIRST = ["left", "right", "good", "bad", "shown"];
  const KEYS = { ArrowLeft: "left", l: "left", ArrowRight: "right", r: "right", ArrowUp: "good", g: "good", ArrowDown: "bad", b: "bad", t: "tie", s: "skip", e: "edit", u: "undo", Backspace: "back", Enter: "shown" };
  let by = "", question = null, why = "", busy = false, picking = false, chosen = null;
  let ranking = [], order = [], moved = false; // places of answers: as their numbers were pressed; as they stand, and whether one was moved
  const known = new Set(VERDICTS.map(([name]) => name));

  for (const [name, title, key] of VERDICTS) {
    $("actions").append(el("button", { type: "button", id: name === "shown" && name, class: FIRST.includes(name) && "first", "data-verdict": name, onclick: (event) => (event.detail > 1 && name !== "undo") || act(name) }, title, " ", el("kbd", {}, key)));
  }
  reasons.forEach((reason, number) => {
    const key = kind !== "ranking" && number < 9 ? [" ", el("kbd", {}, String(number + 1))] : [];
    $("reasons").append(el("label", {}, el("input", { type: "checkbox", value: reason }), " ", reason, ...key));
  });
  $("reasons").hidden = !reasons.length;
  objectives.forEach((objective, number) => {
    const side = (value, title) => el("label", {}, el("input", { type: "radio", name: "objective-" + number, value }), " ", title);
    $("objectives").append(el("fieldset", {}, el("legend", {}, objective, " ", el("kbd", {}, "⇧ " + (number + 1))), side("left", "Left"), side("equal", "Equal"), side("right", "Right")));
  });

  const radios = (number) => [...$("objectives").querySelectorAll(`[name=objective-${number}]`)];

  /** Left, equal, right, not rated, and again. */
  function rateNext(number) {
    const all = radios(number), at = all.findIndex((radio) => radio.checked);
    all.forEach((radio, place) => { radio.checked = place === at + 1; });
  }

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
    order = question ? question.answers.map((_, place) => place) : [];
    moved = false;
    for (const box of $("remarks").querySelectorAll("input")) box.checked = false;
    $("comment").value = "";
    const { mine, left, minutes, needed } = state.progress;
    $("bar").max = mine + left || 1;
    $("bar").value = mine;
    $("progress").textContent = `${count(mine)} decided, ${count(left)} left` + (minutes && left ? `, about ${duration(minutes)}` : "");
    $("needed").textContent = needed ? wanted(needed)[0] : "";
    $("needed").hidden = !needed;
    why = needed ? wanted(needed)[1] : "";
    show();
    scrollTo(0, 0);
  }

  const duration = (minutes) => (minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h` + (minutes % 60 && minutes < 600 ? ` ${minutes % 60} min` : ""));

  const count = (value) => value.toLocaleString("en");

  /** How many labels a better reward model needs, in short, and where that is known from; docs/people.md has the rule. */
  function wanted({ ref, trained, runs, known, labels, low, high, minutes }) {
    const about = (value) => count(known ? Number(value.toPrecision(2)) : value);
    const still = "Labels still needed for a better reward model: " + (labels === 0 ? "none, train it"
      : labels !== null ? about(labels) : low !== null ? `at least ${about(low)}` : "not known, more of them did not help")
      + (minutes ? `, ${duration(minutes)} at the present rate` : "");
    if (!known) return [still, `The labels still needed are those for twice the ${count(trained)} pairs of ${ref}. To know what more labels bring, train reward models on parts of its pairs: prefcli sweep train-rm --rows.`];
    const range = low === null ? "no number is enough" : high === null ? `from ${about(low)}, or no number is enough` : `from ${about(low)} to ${about(high)}`;
    return [still, `The labels still needed are those for 10 % fewer mistakes than ${ref} makes, by the rate at which mistakes fell over ${runs} runs on different numbers of pairs. 95 % interval: ${range}.`];
  }

  function show() {
    const plain = $("plain").checked;
    $("question").hidden = $("remarks").hidden = !question;
    $("finished").hidden = !!question;
    if (!question) return;
    $("dialogue").replaceChildren(...dialogue(question.prompt, plain));
    const titles = { pairs: ["Left", "Right"], binary: ["Answer"] }[kind];
    $("answers").className = "answers " + kind;
    const focused = document.activeElement.id;
    $("answers").replaceChildren(...order.map((place) => {
      const id = "answer-" + place, rank = ranking.indexOf(place);
      const head = kind === "ranking" ? toRank(place, rank) : [titles[place]];
      return el("article", { class: "answer" + (rank >= 0 ? " ranked" : ""), "aria-labelledby": id, "data-place": place }, el("h2", { id }, ...head), rendered(question.answers[place], plain));
    }));
    if (kind !== "ranking") return;
    $("shown").disabled = !moved;
    if (/^(rank|up|down)-/.test(focused)) [focused, focused.replace("up", "down"), focused.replace("down", "up")].map($).find((button) => button && !button.disabled)?.focus();
  }

  // Ranking: the numbers of the answers, the best first; or their order on the page, by dragging or by buttons

  function toRank(place, rank) {
    const at = order.indexOf(place), name = `Answer ${place + 1}`;
    const mover = (id, sign, by, word) => el("button", { type: "button", id: `${id}-${place}`, "aria-label": `Move answer ${place + 1} ${word}`, disabled: !(at + by in order), onclick: () => move(place, at + by) }, sign);
    return [
      el("span", { class: "grip", "aria-hidden": "true", title: "Drag", onpointerdown: drag }, "⠿"),
      el("button", { type: "button", id: "rank-" + place, "aria-pressed": String(rank >= 0), onclick: () => ranked(place) }, name, " ", el("kbd", {}, String(place + 1)), rank >= 0 ? ` – rank ${rank + 1}` : ""),
      mover("up", "↑", -1, "up"), mover("down", "↓", 1, "down"),
    ];
  }

  function ranked(place) {
    if (busy || !question) return;
    const at = ranking.indexOf(place);
    ranking = at >= 0 ? ranking.slice(0, at) : [...ranking, place];
    if (ranking.length === question.answers.length - 1) ranking.push(question.answers.findIndex((_, other) => !ranking.includes(other)));
    show();
    $("progress").textContent = ranking.length ? "Ranked: " + numbers(ranking) : "";
    if (ranking.length === question.answers.length) decide(ranking);
  }

  const numbers = (places) => places.map((place) => place + 1).join(" > ");

  function move(place, to) {
    const others = order.filter((other) => other !== place);
    reordered([...others.slice(0, to), place, ...others.slice(to)]);
  }

  /** What the page shows is the order now; Enter or the button says so. */
  function reordered(places) {
    [order, ranking, moved] = [places, [], true];
    show();
    $("progress").textContent = `Order: ${numbers(order)}. Enter when it is right.`;
  }

  /** The card under the pointer stays in the page, and its neighbours change sides with it; at the edges the page scrolls. */
  function drag(event) {
    if (busy || event.button) return;
    event.preventDefault();
    const card = event.target.closest("article"), middle = (one) => one.getBoundingClientRect().top + one.offsetHeight / 2;
    let y = event.clientY;
    card.classList.add("dragged");
    const follow = (moving) => {
      y = moving.clientY;
      for (let next; (next = card.previousElementSibling) && y < middle(next); ) card.after(next);
      for (let next; (next = card.nextElementSibling) && y > middle(next); ) card.before(next);
    };
    const scrolling = setInterval(() => {
      const by = y < 60 ? -10 : y > innerHeight - 120 ? 10 : 0;
      if (by) scrollBy(0, by);
      if (by) follow({ clientY: y });
    }, 16);
    const over = new AbortController();
    addEventListener("pointermove", follow, { signal: over.signal });
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => {
      over.abort();
      clearInterval(scrolling);
      reordered([...$("answers").children].map((one) => Number(one.dataset.place)));
    }, { signal: over.signal });
  }

  function decide(verdict, text) {
    const ticked = [...$("reasons").querySelectorAll("input:checked")].map((box) => box.value);
    const rated = objectives.map((objective, number) => [objective, radios(number).find((radio) => radio.checked)?.value]).filter(([, side]) => side);
    return send("label/decide", { id: question.id, verdict, comment: $("comment").value, reasons: ticked, objectives: Object.fromEntries(rated), ...(text === undefined ? {} : { text }) });
  }

  function act(name) {
    if (name === "undo") return send("label/undo", {});
    if (!question) return;
    if (name === "edit") return edit();
    if (name === "shown") return moved ? decide(order) : false;
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
    if (event.target.matches("[type=radio]") && event.key.startsWith("Arrow")) return;
    if (event.target.matches("textarea, input:not([type=checkbox], [type=radio])")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.repeat && event.target.matches("#actions button")) event.preventDefault(); // a held Enter decides one question
    if (!$("keys").checked || event.repeat || (event.key === "Enter" && event.target.matches("button, a, input"))) return;
    const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const digit = event.shiftKey && event.code.match(/^Digit([1-9])$/);
    if (digit && question && digit[1] <= objectives.length) rateNext(digit[1] - 1);
    else if (/^[1-9]$/.test(event.key) && question) {
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

  function tell(text) {
    $("editor-message").textContent = text;
    $("editor-message").hidden = !text;
  }

  function edit() {
    picking = true;
    tell("");
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
    const { id } = question;
    // What is not taken stays in the editor, unless the question is another now.
    if (await decide(chosen, $("editor-text").value) || question?.id !== id) $("editor").close();
    else tell($("message").textContent);
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
      const { all, annotators, pairs, objectives: rated } = found.agreement;
      const first = kind === "pairs" ? "left preferred" : "upper preferred";
      $("figures").replaceChildren(
        table(["annotator", "decisions", "ties", "skips", first, "seconds, median"], found.annotators.map((one) => [one.by, one.decisions, one.ties, one.skips, percent(one.first) + between(one.first_ci95, percent), one.seconds.toFixed(1)])),
        table(["agreement of", "questions", "same", "Krippendorff's α"], [agreed("all", all), ...annotators.map((one) => agreed(one.by + " with the others", one)), ...pairs.map((one) => agreed(one.by.join(" and "), one)), ...rated.map((one) => agreed(one.objective, one))]),
        el("p", { class: "quiet" }, "α is 1 where all agree, and 0 where they agree no more than by chance. In brackets 95 % intervals. Without bias of position 50 % prefer the left."),
      );
      if (why) $("figures").append(el("p", { class: "quiet" }, why));
      $("figures").hidden = false;
    } catch (error) {
      say(error.message);
    }
  }
}

// Chat

function chatPage() {
  const two = $("chat").dataset.two === "true";
  let current = null, heads = [], working = false;
  const busy = (is) => { for (const button of document.querySelectorAll("#chat button")) button.disabled = is; };

  async function doing(work) {
    if (working) return;
    working = true;
    busy(true);
    try {
      await work();
      say("");
    } catch (error) {
      say(error.message);
    }
    busy(false);
    working = false;
  }

  function drawQuestion(text) {
    const turn = el("div", { class: "turn user" }, el("p", { class: "who" }, "you"), rendered(text, false));
    $("turns").append(turn);
    return turn;
  }

  function drawAnswers(id, answers, open) {
    current = id;
    heads = answers.map((_, place) => el("h2", {}, answers.length > 1 ? title(place) : "Answer"));
    $("turns").append(el("div", { class: "answers" + (answers.length > 1 ? " pairs" : "") }, ...answers.map((answer, place) => el("article", { class: "answer" }, heads[place], rendered(answer, false)))));
    $("votes").hidden = !open;
  }

  function send() {
    const text = $("text").value;
    if (!text.trim()) return;
    return doing(async () => {
      const asked = drawQuestion(text), before = [$("votes").hidden, $("undo").hidden];
      $("votes").hidden = $("undo").hidden = true;
      try {
        const { id, answers } = await ask("chat/ask", { text });
        drawAnswers(id, answers, two);
        $("text").value = "";
      } catch (error) {
        asked.remove();
        [$("votes").hidden, $("undo").hidden] = before;
        throw error;
      }
    });
  }

  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) send();
  });
  $("reset").addEventListener("click", () => doing(async () => {
    await ask("chat/reset");
    $("turns").replaceChildren();
    $("votes").hidden = $("undo").hidden = true;
  }));
  const title = (place) => ["Left", "Right"][place], share = (value) => Math.round(100 * value) + " %";

  function counted(tally) {
    $("tally").textContent = tally ? tally.wins.map(([name, number]) => `${name} ${number}`).join(", ") + `, ties ${tally.ties}; ${tally.wins[0][0]} wins ${share(tally.fraction)} [${share(tally.ci95[0])}, ${share(tally.ci95[1])}]` : "";
  }

  $("undo").addEventListener("click", () => doing(async () => {
    const { id, tally } = await ask("chat/undo");
    current = id;
    heads.forEach((head, place) => { head.textContent = title(place); });
    counted(tally);
    $("undo").hidden = true;
    $("votes").hidden = false;
  }));
  for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => doing(async () => {
    const { names, tally } = await ask("chat/vote", { id: current, verdict: button.dataset.vote });
    names.forEach((name, place) => { heads[place].textContent += `: ${name}` + (["left", "right"][place] === button.dataset.vote ? ", preferred" : ""); });
    $("votes").hidden = true;
    $("undo").hidden = false;
    counted(tally);
    $("text").focus();
  }));

  doing(async () => { // the server's dialogue continues when the page is loaded again
    const { turns, asked, tally } = await ask("chat/state");
    for (const { role, content } of turns) role === "user" ? drawQuestion(content) : drawAnswers(null, [content], false);
    if (asked) drawAnswers(asked.id, asked.answers, true);
    counted(tally);
  });
}

({ label: labelPage, chat: chatPage })[document.body.dataset.page]();
