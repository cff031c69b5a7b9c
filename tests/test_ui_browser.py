"""`ui` in a real browser, where there is one: by keys alone, blind, in both themes, from a phone to 200 % zoom."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import browser_path, page
from conftest import artifact_in, write
from test_report_browser import COLOURS, STICKS_OUT, brightness

pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="NO BROWSER: the page to label was not tried. Install chromium to run this test."
)
EVIL = "<img src=x onerror=document.title='owned'> <script>document.title='owned'</script> \u202eevil"
MARKDOWN = f"""Use `sorted`, **always**:

```python
print("<b>{{}}</b>")  # not **bold**
```
# Why
1. *new* list
2. {EVIL}"""
ORDER = "[...document.querySelectorAll('.answer')].map(e => Number(e.dataset.place) + 1).join()"
PROGRESS = "document.getElementById('progress').textContent"
# What a person would miss who does not see, or has no mouse: names of controls, labels, one h1, order of headings.
NAMELESS = """
[...document.querySelectorAll('button, a, input, textarea, progress, [role=img], [role=region], section[aria-label]')]
  .filter(e => e.checkVisibility() && !(e.textContent.trim() || e.labels?.length || e.ariaLabel
    || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML.slice(0, 80))
"""
HEADINGS = "[...document.querySelectorAll('h1')].filter(e => e.checkVisibility()).length"
# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
CONTRAST = """
(() => {
  const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(part);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && !e.disabled && !e.closest('svg, .skip, .hidden')
      && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), e.tagName + ' ' + e.textContent.slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
})()
"""


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


@contextmanager
def served(*options):
    words = [sys.executable, "-m", "prefcli", "ui", "--no-browser", "--port", "0", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def begin(tab, url, name, **more):
    tab.open(url, **more)
    tab.wait("document.activeElement.id === 'by'")
    tab.evaluate("document.getElementById('by').value = ''")
    tab.type(name)
    tab.press("Enter")
    tab.wait("!document.getElementById('work').hidden")


def press(tab, *keys):
    """Each key, and until what it says of the progress has changed."""
    took = []
    for key in keys:
        before, started = tab.evaluate(PROGRESS), time.monotonic()
        tab.press(key)
        tab.wait(f"{PROGRESS} !== {json.dumps(before)}")
        took.append(time.monotonic() - started)
    return took


def looked_at(tab, theme="light"):
    """What is wrong with the page as it stands."""
    paper, ink = map(brightness, tab.evaluate(COLOURS))
    assert (paper > 0.9 and ink < 0.2) if theme == "light" else (paper < 0.2 and ink > 0.8)
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.evaluate("innerWidth")
    assert tab.evaluate(STICKS_OUT) == [] and tab.evaluate(NAMELESS) == [] and tab.evaluate(CONTRAST) == []
    assert tab.evaluate(HEADINGS) == 1 and tab.evaluate("document.documentElement.lang")
    assert tab.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size "
                        "=== document.querySelectorAll('[id]').length")  # fmt: skip
    assert tab.complaints == []
    if axe := os.environ.get("AXE_CORE"):  # axe.min.js of axe-core, where somebody has it
        tab.evaluate(Path(axe).read_text(encoding="utf-8") + "; 0")
        assert tab.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))") == []


def test_thirty_pairs_by_keys_with_a_kill_in_between_and_a_second_annotator(own_folder):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": EVIL}]
    rows = [{"prompt": prompt, "chosen": MARKDOWN, "rejected": EVIL}]
    rows += [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(9_999)]
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    options = ["--label", "data.jsonl", "--out", "out.jsonl", "--reason", "wrong fact", "--reason", EVIL,
               "--objective", "helpful", "--objective", EVIL]  # fmt: skip
    with page() as tab:
        with served(*options) as (process, url):
            begin(tab, url, "ann")
            left = tab.evaluate("document.querySelector('.answer .text').textContent")
            took = press(tab, *["ArrowLeft", "r", "t", "l", "ArrowRight"] * 3)
            assert rows_of("out.jsonl")[0]["chosen"] == left
            assert statistics.median(took) < 0.5  # it is 0.02 to 0.08 s, on a machine that has nothing else to do
            process.send_signal(signal.SIGKILL)
            process.wait()
            tab.press("l")
            tab.wait("!document.getElementById('message').hidden")
            assert "on disk" in tab.evaluate("document.getElementById('message').textContent")
        with served(*options) as (process, url):
            begin(tab, url, "ann")
            assert tab.evaluate(PROGRESS).startswith("15 decided, 9,985 left")
            press(tab, *"lrtsl" * 3, "u", "u", "l", "s")
            assert tab.evaluate(PROGRESS).startswith("30 decided")
            tab.press("2")
            for digit in (1, 2, 2):  # helpful: left; the other: equal
                tab.press("!", code=f"Digit{digit}", shift=True)
            tab.press("c")
            tab.type("a comment, l r t")
            tab.press("Escape")
            press(tab, "l")
            tab.press("e")
            tab.press("ArrowRight")
            tab.wait("!document.getElementById('editor-text').hidden")
            tab.type(" and more")
            before, answer = tab.evaluate(PROGRESS), "document.getElementById('editor-text').value"
            text = tab.evaluate(answer)
            tab.evaluate(f"{answer} = ' '")
            tab.press("Enter", ctrl=True)
            tab.wait("!document.getElementById('editor-message').hidden")  # it was not taken, and is still there
            assert tab.evaluate("document.getElementById('editor').open") and tab.evaluate(answer) == " "
            tab.evaluate(f"{answer} = {json.dumps(text)}")
            tab.press("Enter", ctrl=True)
            tab.wait(f"{PROGRESS} !== {json.dumps(before)}")
            assert not tab.evaluate("document.getElementById('editor').open")
            *_, commented, edited = rows_of("out.jsonl")
            assert (commented["reasons"], commented["comment"]) == ([EVIL], "a comment, l r t")
            assert commented["objectives"] == {"helpful": "chosen", EVIL: "equal"} and "objectives" not in edited
            assert edited["chosen"] == edited["edited"] + " and more"
            begin(tab, url, "bob", width=390, scheme="dark")
            skip, decided = "document.querySelector('[data-verdict=skip]')", tab.evaluate(PROGRESS)
            tab.evaluate(f"{skip}.dispatchEvent(new MouseEvent('click', {{detail: 2}}))")  # the second of two
            held = "new KeyboardEvent('keydown', {key: 'Enter', repeat: true, bubbles: true, cancelable: true})"
            assert not tab.evaluate(f"{skip}.dispatchEvent({held})")
            assert tab.evaluate(PROGRESS) == decided
            press(tab, "l", "t")
            assert [row["by"] for row in rows_of("out.jsonl")].count("bob") == 1
            tab.evaluate("document.getElementById('report').click()")
            tab.wait("document.querySelectorAll('#figures tbody tr').length >= 3")
            looked_at(tab, "dark")
            tab.evaluate("document.getElementById('keys').click()")
            before = tab.evaluate(PROGRESS)
            tab.press("l")
            time.sleep(0.2)
            assert tab.evaluate(PROGRESS) == before  # single keys are off
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    assert len(rows_of("out.jsonl")) + len(rows_of("out.jsonl.skipped")) == 34


def test_texts_are_shown_and_never_run(own_folder):
    write(Path("data.jsonl"), json.dumps({"prompt": EVIL, "chosen": MARKDOWN, "rejected": EVIL}) + "\n")
    with page() as tab, served("--label", "data.jsonl", "--out", "out.jsonl") as (_, url):
        for width, height, scheme in ((1200, 900, "light"), (390, 800, "dark"), (600, 450, "light")):  # last: 200 %
            begin(tab, url, "ann", width=width, height=height, scheme=scheme)
            looked_at(tab, scheme)
        assert tab.evaluate("document.title").startswith("Label")
        assert tab.evaluate("document.querySelectorAll('main img, main script, main b').length") == 0
        assert "\u202e" not in tab.evaluate("document.body.innerText")
        assert "<script>" in tab.evaluate("document.getElementById('dialogue').textContent")
        shown = {tag: tab.evaluate(f"[...document.querySelectorAll('.answer .text {tag}')].map(e => e.textContent)")
                 for tag in ("pre code", "p > code", "strong", "ol li em", ".heading")}  # fmt: skip
        code = 'print("<b>{}</b>")  # not **bold**'
        assert shown == {"pre code": [code], "p > code": ["sorted"], "strong": ["always"], "ol li em": ["new"],
                         ".heading": ["Why"]}  # fmt: skip
        for text in ("```x = 1``` is one", "```python\nx = 1\n``` is one", "~~~\nx = 1\n~~~ is one"):
            seen = tab.evaluate(f"rendered({json.dumps(text)}, false).textContent")
            assert " ".join(seen.split()) == "x = 1 is one", text  # nothing is left out
        tab.press("m")
        texts = tab.evaluate("[...document.querySelectorAll('.answer .text')].map(e => e.textContent)")
        assert sorted(texts) == sorted(text.replace("\u202e", "\ufffd") for text in (EVIL, MARKDOWN))
        base = url.removesuffix("label")
        assert {re.sub(r"\?.*", "", address) for address in tab.requests} <= {
            base + name for name in ("label", "ui.css", "ui.js", "label.js", "label/next")
        } | {"data:,"}


def test_rankings_and_thumbs_by_keys(own_folder):
    rows = [{"prompt": f"Question {i}", "completion": f"answer {k}"} for i in range(2) for k in range(4)]
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    with page() as tab:
        with served("--label", "data.jsonl", "--out", "ranks.jsonl", "--to", "ranking") as (_, url):
            begin(tab, url, "ann")
            texts = tab.evaluate("[...document.querySelectorAll('.answer .text')].map(e => e.textContent)")
            tab.press("3")
            tab.press("1")
            tab.press("Backspace")
            looked_at(tab)
            tab.press("2")
            tab.press("1")
            tab.wait(f"{PROGRESS}.startsWith('1 decided')")
            order = [texts[place] for place in (2, 1, 0, 3)]
            assert [row["chosen"] for row in rows_of("ranks.jsonl")] == [order[0]] * 3 + [order[1]] * 2 + [order[2]]
            press(tab, "u")
            assert rows_of("ranks.jsonl") == []
            tab.press("Enter")  # says nothing as long as nothing was moved
            assert tab.evaluate("document.getElementById('shown').disabled") and rows_of("ranks.jsonl") == []
            heights = tab.evaluate("[...document.querySelectorAll('.answer')].map(e => e.offsetHeight + 16)")
            tab.drag("document.querySelector('.answer .grip')", 2.4 * heights[0])  # the first below the third
            assert tab.evaluate(ORDER) == "2,3,1,4" and "2 > 3 > 1 > 4" in tab.evaluate(PROGRESS)
            tab.drag("document.querySelectorAll('.answer .grip')[3]", -2.95 * heights[0])
            assert tab.evaluate(ORDER) == "4,2,3,1"
            # The same by keys alone: the focus stays with the answer that is moved.
            tab.evaluate("document.getElementById('down-1').focus()")
            for key in (" ", "Enter"):
                tab.press(key)
            assert tab.evaluate(ORDER) == "4,3,1,2" and tab.evaluate("document.activeElement.id") == "up-1"
            looked_at(tab)
            tab.evaluate("document.activeElement.blur()")
            tab.press("Enter")
            tab.wait(f"{PROGRESS}.startsWith('1 decided')")
            order = [texts[place] for place in (3, 2, 0, 1)]
            assert [row["chosen"] for row in rows_of("ranks.jsonl")] == [order[0]] * 3 + [order[1]] * 2 + [order[2]]
        with served("--label", "data.jsonl", "--out", "thumbs.jsonl", "--to", "binary") as (_, url):
            begin(tab, url, "ann")
            press(tab, "g", "ArrowDown", "s", "b")
            looked_at(tab)
            assert [row["label"] for row in rows_of("thumbs.jsonl")] == [True, False, False]


def test_a_run_is_watched_while_it_is_written_and_afterwards(own_folder, store):
    artifact_in(store, "sft", metrics={"loss": 0.5})
    with page() as tab, served() as (_, url):
        tab.open(url)
        looked_at(tab)
        writer = store.writer("dpo", "key")
        draft = writer.__enter__()
        rows = [{"step": i, "loss": 1 / i, "rewards/margins": i / 9} for i in range(1, 30)]
        rows[4]["alarm/explosion"] = 1
        log = write(draft.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        tab.wait("document.querySelector('tr[data-ref=\"dpo@v1\"] .running')")  # the list finds it by itself
        for width, scheme in ((390, "dark"), (1200, "light")):
            tab.open(url + "runs/dpo/v1", width=width, scheme=scheme)
            tab.wait("document.querySelectorAll('svg.live').length === 2")
            looked_at(tab, scheme)
        assert tab.evaluate("document.querySelectorAll('.alarm-line').length") == 2
        assert tab.evaluate("document.getElementById('alarms').textContent") == "Alarms: explosion at step 5"
        assert "step 29" in tab.evaluate("document.querySelector('svg.live').getAttribute('aria-label')")
        with log.open("a") as file:
            file.write('{"step": 30, "loss": 0.01}\n')
        tab.wait("document.getElementById('result').textContent === 'step 30'")
        with draft.save(30, keep=True) as folder:
            write(folder / "there", "x")
        writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        tab.wait("document.getElementById('state').textContent === 'interrupted'")
        assert not tab.evaluate("document.getElementById('stop')")
        tab.open(url + "runs/sft/v1", width=600, height=450)
        tab.wait("document.querySelector('svg.lineage').style.maxWidth")
        looked_at(tab)


def test_two_models_are_talked_to_and_voted_on(chain):
    with page() as tab, served("--chat", "sft", "--chat", "dpo", "--chat-out", "votes.jsonl") as (_, url):
        tab.open(url, width=390, scheme="dark")
        tab.wait("!document.querySelector('#chat button').disabled")  # the dialogue so far is there
        tab.evaluate("document.getElementById('text').focus()")
        tab.type("Who sings?")
        for _ in range(2):  # held, or pressed twice: it is asked once
            tab.press("Enter", ctrl=True)
        tab.wait("!document.getElementById('votes').hidden")
        looked_at(tab, "dark")
        turns = tab.evaluate("document.getElementById('turns').innerHTML")
        assert turns.count("turn user") == 1
        tab.open(url, width=390, scheme="dark")
        tab.wait("!document.getElementById('votes').hidden")
        assert tab.evaluate("document.getElementById('turns').innerHTML") == turns
        assert not re.search("sft|dpo", tab.evaluate("document.getElementById('turns').textContent"))
        tab.evaluate("document.querySelector('[data-vote=left]').click()")
        tab.wait("/sft@v1/.test(document.getElementById('turns').textContent)")
        assert len(rows_of("votes.jsonl")) == 1
        assert re.search("wins (0|100) %", tab.evaluate("document.body.textContent"))  # the sides are random
        looked_at(tab, "dark")
        tab.evaluate("document.getElementById('undo').click()")
        tab.wait("!document.getElementById('votes').hidden")
        assert rows_of("votes.jsonl") == [] and not tab.evaluate("document.getElementById('tally').textContent")
