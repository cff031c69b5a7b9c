"""`prefcli label`: rows against a search by hand, a judge in both orders, its endpoint, what is kept and refused."""

from __future__ import annotations

import itertools
import json
import random
import sys
import types
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import fmean

import pytest
import torch
from conftest import write
from test_rewards_http import closed_port, running

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.data.row import Row
from prefcli.evaluation.judge import QUESTION, ModelJudge, Tally, fill, parse_verdict
from prefcli.labelling.preferences import different_answers
from prefcli.labelling.prompts import Prompts
from prefcli.labelling.shares import ask, win_shares
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.statistics.intervals import wilson_interval

LENGTH = "def score(prompts, completions, **_):\n    return [float(len(text)) for text in completions]\n"
ANSWERS = [
    {"prompt": "p", "completion": "ab", "id": 1, "of": "x"},
    {"prompt": [{"role": "user", "content": "p"}], "completion": "alone", "of": "x"},
    {"prompt": "p", "completion": "abcd", "id": 2, "of": "x"},
    {"prompt": "q", "completion": "aa", "of": "x"},
    {"prompt": "q", "completion": "bb", "of": "x"},
    {"prompt": "p", "completion": "abc", "id": 3, "of": "x"},
    {"prompt": "r", "completion": "same", "of": "x"},
    {"prompt": "r", "completion": "same", "of": "x"},
]
# What a row says of its own answers.
OLD = {
    "margin": 3.0, "score_chosen": 9.0, "score_rejected": 1.0, "all_chosen": ["a"], "all_rejected": ["bb"],
    "by": "ann", "at": "2026-01-01", "seconds": 1.5, "shown": ["chosen", "rejected"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting_and_no_key(monkeypatch):
    monkeypatch.setattr("prefcli.rewards.http.BACKOFF", 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def length(own_folder):
    write(own_folder / "r.py", LENGTH)
    return "length=python:r.py:score"


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def label(prefcli, own_folder):
    """`label("--data", …)` is (the rows that were written, the result)."""

    def run(*args):
        result = prefcli("label", *args, "--out", "made.jsonl")
        assert result.exit_code == 0, result.stderr
        return rows_in(own_folder / "made.jsonl"), result

    return run


# By a reward source


def test_the_best_answer_to_each_prompt_against_its_worst(label, jsonl, length):
    args = ["--data", jsonl("a.jsonl", *ANSWERS), "--by", length]
    rows, result = label(*args)
    assert result.stdout == "made.jsonl\n"
    assert rows == [
        {"of": "x", "prompt": "p", "chosen": "abcd", "rejected": "ab", "scores": {"chosen": 4.0, "rejected": 2.0}}
    ]
    assert "of 4 prompts; left out: 2 with one answer, 1 tied" in result.stderr and "mean 3" in result.stderr
    summary = json.loads(label(*args, "--json")[1].stdout)
    assert {name: summary[name] for name in ("rows", "out", "to", "prompts", "left_out", "gold")} == {
        "rows": 1, "out": "made.jsonl", "to": "pairs", "prompts": 4, "left_out": {"with_one_answer": 2, "tied": 1},
        "gold": None,
    }  # fmt: skip
    assert (summary["by"]["name"], summary["by"]["ref"], summary["by"]["answers"]) == ("length", "python:r.py:score", 8)
    assert label(*args, "--quiet")[1].stderr == ""


def random_rows(draw):
    """Scores of few values, so that there are ties; prompts as strings and as dialogues, shuffled."""
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    prompts = ["p", "q", [chat[1]], chat, *[f"prompt {i}" for i in range(20)]]
    rows = [
        {"prompt": prompt, "completion": f"answer {i} ü", "s": draw.choice([-1.5, 0, 0.25, 2]), "label": False}
        for prompt in prompts
        for i in range(draw.randint(1, 4))
    ]
    draw.shuffle(rows)
    scores = {json.dumps(prompt): {} for prompt in prompts}
    for row in rows:
        scores[json.dumps(row["prompt"])][row["completion"]] = row["s"]
    return rows, scores


@pytest.fixture
def by_column(own_folder):
    write(own_folder / "s.py", "def score(prompts, completions, s, **_):\n    return s\n")
    return "python:s.py:score"


def test_pairs_are_those_of_a_search_over_all_answers(chain, prefcli, label, jsonl, by_column):
    rows, scores = random_rows(random.Random(5))
    pairs, result = label("--data", jsonl("a.jsonl", *rows), "--by", by_column, "--json")
    made = {json.dumps(row["prompt"]): row for row in pairs}
    tied = 0
    for prompt, known in scores.items():
        margin = max((a - b for a, b in itertools.permutations(known.values(), 2)), default=None)
        tied += margin == 0
        assert (prompt in made) == bool(margin)
        if margin:
            pair = made[prompt]
            assert pair["scores"] == {side: known[pair[side]] for side in ("chosen", "rejected")}
            assert pair["scores"]["chosen"] - pair["scores"]["rejected"] == margin
    assert json.loads(result.stdout)["left_out"]["tied"] == tied > 0
    for stage in ("dpo", "train-rm"):
        planned = prefcli(stage, "--model", "sft@v1", "--data", "made.jsonl", "--dry-run")
        assert planned.exit_code == 0 and f"{len(made)} rows" in planned.stderr, planned.stderr


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_answers_above_the_mean_or_the_threshold_are_good_and_those_below_bad(label, jsonl, by_column, threshold):
    rows, scores = random_rows(random.Random(6))
    options = [] if threshold is None else ["--threshold", str(threshold)]
    made, result = label("--data", jsonl("a.jsonl", *rows), "--by", by_column, "--to", "binary", *options, "--json")
    expected = {
        (prompt, text, s > cut)
        for prompt, known in scores.items()
        for cut in [fmean(known.values()) if threshold is None else threshold]
        for text, s in known.items()
        if s != cut
    }
    assert {(json.dumps(row["prompt"]), row["completion"], row["label"]) for row in made} == expected
    assert len(made) == len(expected) > 20 and all(row["scores"] == {"score": row["s"]} for row in made)
    assert {"at_mean" if threshold is None else "at_threshold", "tied"} & set(json.loads(result.stdout)["left_out"])


def test_a_score_that_is_the_threshold_is_neither_above_nor_below_it(label, jsonl, by_column):
    rows = [{"prompt": "p", "completion": str(s), "s": s} for s in (0.5, 0.6, 0.7)]
    made, _ = label("--data", jsonl("a.jsonl", *rows), "--by", by_column, "--to", "binary", "--threshold", "0.6")
    assert [(row["s"], row["label"], row["scores"]) for row in made] == [
        (0.5, False, {"score": 0.5}), (0.7, True, {"score": 0.7})
    ]  # fmt: skip


@pytest.mark.parametrize("to", ["binary", "best"])
def test_nothing_that_a_row_says_of_its_own_answers_is_said_of_others(label, jsonl, length, to):
    pair = {"prompt": "q", "chosen": "a", "rejected": "bb", "by_whom": "x"}
    made, _ = label("--data", jsonl("a.jsonl", pair | OLD), "--by", length, "--to", to)
    assert all(set(row) - {"label"} == {"prompt", "completion", "scores", "by_whom"} for row in made)


def test_the_best_answer_is_a_demonstration_without_its_old_label(chain, prefcli, label, jsonl, by_column):
    rows, scores = random_rows(random.Random(7))
    args = ["--data", jsonl("a.jsonl", *rows), "--by", by_column, "--to", "best"]
    made, _ = label(*args)
    assert len(made) == len(scores) and not any("label" in row for row in made)
    for row in made:
        assert row["scores"]["score"] == max(scores[json.dumps(row["prompt"])].values()) == row["s"]
    assert "24 rows" in prefcli("sft", "--model", "sft@v1", "--data", "made.jsonl", "--dry-run").stderr
    above, result = label(*args, "--threshold", "0.25")
    assert above == [row for row in made if row["s"] > 0.25]
    assert f"{len(made) - len(above)} not above threshold" in result.stderr


def test_pairs_are_judged_anew_and_an_answer_counts_once(label, jsonl, length, own_folder):
    write(own_folder / "s.py", "def score(prompts, completions, **_):\n    return list(range(len(completions)))\n")
    pairs = [
        {"prompt": "p", "chosen": "long", "rejected": "s", "source": "x"},
        {"prompt": "p", "chosen": "s", "rejected": "long", "source": "y"},
        {"prompt": "q", "chosen": "a", "rejected": "bb", "id": 4} | OLD,
    ]
    made, result = label("--data", jsonl("a.jsonl", *pairs), "--by", length)
    assert made == [
        {"source": "x", "prompt": "p", "chosen": "long", "rejected": "s", "scores": {"chosen": 4.0, "rejected": 1.0}},
        {"id": 4, "prompt": "q", "chosen": "bb", "rejected": "a", "scores": {"chosen": 2.0, "rejected": 1.0}},
    ]
    low, high = wilson_interval(1, 2)  # the sides that the rows came with are gold
    assert f"agrees in 0.50 [{low:.2f}, {high:.2f}] of 2 pairs" in result.stderr
    # A source that gives one text two scores: the first counts, and no text is set against itself.
    data = jsonl("b.jsonl", *[{"prompt": "p", "completion": text} for text in ("same", "other", "same")])
    ((pair,), _) = label("--data", data, "--by", "python:s.py:score")
    assert (pair["chosen"], pair["rejected"], pair["scores"]) == ("other", "same", {"chosen": 1.0, "rejected": 0.0})


def test_agreement_with_gold_is_over_the_pairs_on_which_gold_has_a_preference(label, jsonl, length, own_folder):
    write(own_folder / "g.py", "def gold(prompts, completions, g, **_):\n    return g\n")
    # prompt → gold of the longest answer and of the shortest; what lies between does not count
    gold = {"right": (2, 1), "right too": (1, 0), "wrong": (0, 1), "neither": (1, 1)}
    rows = [
        {"prompt": prompt, "completion": text, "g": g, "label": bool(g)}
        for prompt, (best, worst) in gold.items()
        for text, g in (("aaa", best), ("aa", 9), ("a", worst))
    ]
    data = jsonl("a.jsonl", *rows)
    _, result = label("--data", data, "--by", length, "--gold", "python:g.py:gold", "--json")
    assert json.loads(result.stdout)["gold"] == {
        "pairs": 3, "no_preference": 1, "agreement": pytest.approx(2 / 3),
        "agreement_ci95": pytest.approx(wilson_interval(2, 3)),
    }  # fmt: skip
    carried = json.loads(label("--data", data, "--by", length, "--json")[1].stdout)["gold"]
    assert (carried["pairs"], carried["no_preference"], carried["agreement"]) == (2, 2, 0.5)  # true against false


def test_a_reward_model_labels_with_its_scores(chain, prefcli, label):
    made, result = label("--data", chain.data("held_out_pairs"), "--by", "rm", "--json")
    scored = prefcli("score", "--data", chain.data("held_out_pairs"), "--reward", "rm")
    scores = [json.loads(line)["scores"]["rm"] for line in scored.stdout.splitlines()]
    assert len(made) == len(scores)
    for row, both in zip(made, scores):
        assert row["scores"] == pytest.approx({"chosen": max(both.values()), "rejected": min(both.values())})
    summary = json.loads(result.stdout)
    assert summary["by"]["ref"] == "rm@v1" and summary["gold"]["agreement"] == pytest.approx(summary["by"]["accuracy"])


def test_prompts_with_a_date_are_told_apart():
    rows = [Row([{"role": "user", "content": "p", "sent": datetime(2026, 1, day)}], "a") for day in (1, 2, 1)]
    prompts = Prompts()
    for row in rows:
        prompts.add(row)
    assert len(prompts.sort()) == len(different_answers(rows, [row.answers for row in rows])) == 2


# By a judge


class FakeJudge:
    """`verdict(prompt, a, b)` of questions in the form P|A|B."""

    ref = digest = "fake"

    def __init__(self, verdict):
        self.verdict, self.asked = verdict, []

    def verdicts(self, questions):
        self.asked += questions
        return [self.verdict(*question.split("|")) for question in questions]


def judged(verdict, asked):
    judge, tally = FakeJudge(verdict), Tally()
    said = ask(judge, asked, "{prompt}|{a}|{b}")
    return judge, [win_shares(texts, found, tally) for (_, texts), found in zip(asked, said)], tally


def test_all_pairs_are_asked_in_both_orders_and_shares_are_those_of_a_count():
    draw = random.Random(3)
    asked = [(f"p{i}", [f"a{j}" for j in range(n)]) for i, n in enumerate([1, 2, 3, 4, 5, *[3] * 20])]
    said = {(p, a, b): draw.choice([1.0, 0.0, 0.5, None]) for p, texts in asked for a in texts for b in texts if a != b}
    judge, shares, tally = judged(lambda *question: said[question], asked)
    assert sorted(judge.asked) == sorted("|".join(question) for question in said)
    beats = {"p": 0}
    assert shares[0] == {}  # nothing was asked of an answer alone
    for (prompt, texts), share in zip(asked[1:], shares[1:]):
        for a in texts:
            points = 0.0
            for b in texts:
                if a != b:
                    wins = said[prompt, a, b] == 1 and said[prompt, b, a] == 0
                    loses = said[prompt, a, b] == 0 and said[prompt, b, a] == 1
                    beats["p"] += wins
                    points += 1.0 if wins else 0.0 if loses else 0.5
            assert share[a] == pytest.approx(points / (len(texts) - 1))
    assert tally.comparisons == len(said) / 2 and tally.ties == tally.comparisons - beats["p"]
    assert tally.no_verdict == list(said.values()).count(None)


def test_a_judge_that_sees_the_place_alone_gives_ties_and_its_bias_shows():
    asked = [(f"p{i}", ["a", "b"]) for i in range(50)]
    _, shares, tally = judged(lambda *_: 1.0, asked)
    assert all(share == {"a": 0.5, "b": 0.5} for share in shares) and tally.ties == 50
    assert tally.summary()["first_place"] == 1 and tally.summary()["first_place_ci95"] == list(wilson_interval(50, 50))
    _, _, fair = judged(lambda _, a, b: float(a > b), [("q", ["a", "b"])])
    assert (fair.summary()["first_place"], fair.ties) == (0.5, 0)


@pytest.mark.parametrize("more", [["--to", "best"], *(["--to", to, "--threshold", "0.4"] for to in ("best", "binary"))])
def test_a_judge_says_nothing_of_an_answer_that_it_compared_with_none(label, jsonl, endpoint, asking, more):
    url, _ = endpoint(longer)
    rows = [{"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "ab"}, {"prompt": "q", "completion": "c"}]
    made, result = label("--data", jsonl("a.jsonl", *rows), "--by", url, *asking, *more, "--json")
    assert {row["prompt"] for row in made} == {"p"}
    assert json.loads(result.stdout)["left_out"] == {"with_one_answer": 1}


def test_verdicts_are_kept_when_a_judge_stops_and_asked_once(prefcli, jsonl, endpoint, asking, own_folder, monkeypatch):
    """Whatever is made of them: another --to asks nothing again."""
    stop = [True]

    def stops(question):
        return (401, b"no credit left") if stop[0] and question.startswith("p35") else longer(question)

    url, seen = endpoint(stops)
    rows = [{"prompt": f"p{i:02}", "completion": text} for i in range(40) for text in ("a", "ab")]
    args = ["label", "--data", jsonl("a.jsonl", *rows), "--by", url, *asking, "--out", "made.jsonl"]
    stopped = prefcli(*args)
    assert stopped.exit_code == 4 and "kept 32 of 40 prompts" in stopped.stderr and "same command" in stopped.stderr
    stop[0], before = False, len(seen)
    result = prefcli(*args, "--to", "best")
    assert result.exit_code == 0, result.stderr
    assert len(seen) - before == 2 * (40 - 32)
    assert [row["completion"] for row in rows_in(own_folder / "made.jsonl")] == ["ab"] * 40
    assert not list(own_folder.glob("*.partial"))


def test_what_looks_like_a_placeholder_in_an_answer_stays():
    assert fill("{prompt} {a} {b} {c} {}", "{a}", "{b}", "{prompt}") == "{a} {b} {prompt} {c} {}"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", 1.0), ("b", 0.0), (" A.\n", 1.0), ("**B**", 0.0), ("[[A]]", 1.0), ("Tie", 0.5), ("A tie", 0.5),
        ("tie.", 0.5), ("Answer: B", 0.0), ("Answer A is better.", 1.0), ("A is better than B", 1.0),
        ("I prefer B to A.", 0.0),
        ("A clear win for B.", 0.0), ("A says too much, while B is short.\n\nVerdict: B", 0.0),
        ("<think>A? No. B!</think>\nA", 1.0), ("Both are fine", None), ("", None), ("A and B", None), ("C", None),
        ("a better one", None), ("Answer A is worse than Answer B.", None), ("Answer A is clearly worse.", None),
        ("Answer A is incorrect, so the edge goes to B.", None), ("I would give the win to B.", 0.0),
        ("A isn't better than B.", None), ("A helps more than B, which does not.", None), ("Not A.", None),
        ("A is better than B.\nB does not answer.", None), ("B is wordy, and not true.\n\nA is better than B.", 1.0),
        ("B. It does not make anything up.", 0.0), ("Answer B is preferable to answer A.", 0.0),
        ("I prefer answer A to answer B.", 1.0), ("Compared to A, B is better.", 0.0),
        ("<think> Answer A is", None), ("<think>A?</think>\n<think>B", None),
        # The letter that a reply names last is the worse one's as often as not.
        ("A\n\nAnswer B contains a factual error.", 1.0), ("A\n\nExplanation: Answer B lacks detail.", 1.0),
        ("A.\nB fails to answer.", 1.0), ("Verdict: A\nB rambles.", 1.0), ("**B**\n\nAnswer A invents a source.", 0.0),
        ("Answer B is incorrect.", None), ("B\n\nAnswer A invents a source.", 0.0), ("A. B fails to answer.", 1.0),
        ("Both are short.\nB contains a factual error.", None), ("Answer B could be better.", None),
        ("Wrong answer: B", None), ("Answer B is no better.", None), ("Is B better? I cannot tell.", None),
        ("I prefer a short answer, and B rambles.", None), ("Nobody would choose B.", None),
        ("A: wordy.\nB: wrong.", None), ("A. Wordy.\nB. Wrong.", None), ("A. Wordy. B. Wrong.", None),
        ("A\nOn second thought, it is wrong.\nB", None), ("A. Wordy.\nB. Right.\nFinal answer: B", 0.0),
        ('{"verdict": "B"}', 0.0), ("**Verdict:** A", 1.0), ("\\boxed{B}", 0.0), ("A, because B rambles.", 1.0),
        ("Both are fine; A is slightly better, since B has no source.", None), ("Overall, B has the edge.", 0.0),
        # What comes last goes against what came first.
        ("A\nOn second thought, B is better.", None), ("A\n\nActually, the better answer is B.", None),
        ("A because it seems right at first. But B is better.", None), ("B\n\nA is better than B.", None),
        ("A\n\nA is better than B.", 1.0), ("A\nI prefer A to B.", 1.0),
        ("### A\nIt is long and wrong.\n\n### B\nIt is right.\n\nB is better.", 0.0),
        ("**A**\nlong\n\n**B**\nright\n\nOverall, B wins.", 0.0), ("**A**\nlong\n\n**B**\nwrong", None),
        ("A is more helpful.", 1.0), ("Verdict: B is more accurate", 0.0), ("B is the more helpful one.", 0.0),
        ("B is more verbose.", None), ("B is no more accurate.", None), ("A is more accurate than B.", 1.0),
        ("A: it is better.", 1.0), ("A - more accurate", 1.0), ("A: it is wrong.", None), ("B: it's worse.", None),
        ("The best response is B", 0.0), ("The preferred response is A.", 1.0), ("Preferred: B", 0.0),
        ("Less preferred: B", None), ("Result: B", 0.0), ("Verdict - B", 0.0), ("Verdict - B\nA rambles.", 0.0),
        ("The longer answer - B - has no source.", None), ("My preferred option is B.", 0.0),
        ("My verdict is B with high confidence.", 0.0), ("My answer is B with fewer words.", None), ("A because", 1.0),
        ("The better answer is B.", 0.0), ("I would go with answer A.", 1.0), ("While not perfect, B wins.", 0.0),
    ],
)  # fmt: skip
def test_replies_are_read_leniently(reply, verdict):
    assert parse_verdict(reply) == verdict


@pytest.fixture(scope="module")
def tiny():
    reference = resolve("tiny", Store())
    model = load_policy(reference, dtype=torch.float32, device=torch.device("cpu"), trainable=False)
    return model, load_tokenizer(reference, SILENT)


def test_a_local_judge_takes_the_likelier_letter(tiny):
    """Against one plain forward pass a question, over the text as the template renders it."""
    model, tokenizer = tiny
    questions = [fill(QUESTION, "Where is the kite? " * (i % 5), "In the barn. " * i, f"It is {i}.") for i in range(20)]
    a, b = (tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "AB")
    assert len(a) == len(b) == 1

    def margin(question):
        asked = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        with torch.no_grad():
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            logps = model(ids).logits[0, -1].log_softmax(-1)
        return float(logps[a[0]] - logps[b[0]])

    margins = [margin(question) for question in questions]
    middle = sum(sorted(margins)[9:11]) / 2  # taken off A, so that either letter wins half of the questions
    shift = torch.zeros(model.get_output_embeddings().weight.shape[0])
    shift[a[0]] = middle
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, output: output - shift)
    try:
        verdicts = ModelJudge("tiny", model, tokenizer).verdicts(questions)
    finally:
        hook.remove()
    assert verdicts == [float(value > middle) for value in margins] and verdicts.count(1.0) == 10


def test_a_question_that_is_too_long_has_no_verdict(tiny):
    judge = ModelJudge("tiny", *tiny)
    assert judge.verdicts(["What? " * 2000, "Which?"])[0] is None
    assert judge.verdicts(["Which?"])[0] is not None


def test_a_judge_whose_logits_are_no_numbers_is_refused(chain, prefcli, monkeypatch, jsonl):
    monkeypatch.setattr("prefcli.evaluation.judge.completion_logits", lambda m, rows: torch.full((2, 5000), torch.nan))
    data = jsonl("a.jsonl", *ANSWERS[3:5])
    result = prefcli("label", "--data", data, "--by", "judge:tiny", "--out", "made.jsonl")
    assert result.exit_code == 4 and "not finite" in result.stderr


# By a judge behind an endpoint


@pytest.fixture
def endpoint():
    """`endpoint(answer)` serves `answer(question) -> reply, or (status, bytes)`: its URL, and the requests it saw."""
    servers = []

    def make(answer):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, self.headers.get("Authorization"), body))
                said = answer(body["messages"][-1]["content"])
                status, content = said if isinstance(said, tuple) else (200, None)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content or json.dumps({"choices": [{"message": {"content": said}}]}).encode())

            def log_message(self, *_):
                pass

        server = running(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        servers.append(server)
        return f"judge:http://127.0.0.1:{server.__enter__().server_port}/v1#some/model", seen

    yield make
    for server in servers:
        server.__exit__(None, None, None)


def longer(question):
    _, a, b = question.split("|")
    return "A" if len(a) > len(b) else "**B**." if len(b) > len(a) else "Hm."


@pytest.fixture
def asking(own_folder):
    write(own_folder / "q.txt", "{prompt}|{a}|{b}")
    return ["--judge-prompt", "q.txt"]


def test_an_endpoint_is_asked_in_both_orders_with_the_key_that_is_shown_nowhere(
    label, jsonl, endpoint, asking, monkeypatch, own_folder
):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    busy = iter([(503, b"busy sk-very-secret")])
    url, seen = endpoint(lambda question: next(busy, None) or longer(question))
    args = ["--data", jsonl("a.jsonl", *ANSWERS), "--by", url, *asking, "--judge-key-env", "MY_KEY"]
    rows, result = label(*args, "--json")
    assert [(row["chosen"], row["rejected"], row["scores"]) for row in rows] == [
        ("abcd", "ab", {"chosen": 1.0, "rejected": 0.0})
    ]
    summary = json.loads(result.stdout)
    assert summary["by"] == {
        "name": "judge", "ref": url.removeprefix("judge:"), "comparisons": 4, "ties": 1, "no_verdict": 2,
        "first_place": 0.5, "first_place_ci95": pytest.approx(wilson_interval(2, 4)),
    }  # fmt: skip
    assert summary["left_out"] == {"with_one_answer": 2, "tied": 1}
    assert len(seen) == 1 + 8 and {path for path, *_ in seen} == {"/v1/chat/completions"}
    assert {key for _, key, _ in seen} == {"Bearer sk-very-secret"}
    assert all((body["model"], body["temperature"]) == ("some/model", 0) for *_, body in seen)
    asked = {body["messages"][0]["content"] for *_, body in seen}
    assert {"q|aa|bb", "q|bb|aa", "p|ab|abcd", "p|abcd|ab"} <= asked
    assert "busy" in result.stderr and "2 questions without a verdict" in result.stderr
    assert "very-secret" not in result.output + (own_folder / "made.jsonl").read_text()
    assert not list(own_folder.glob("*.partial"))
    made, _ = label(*args, "--to", "binary")
    assert [(row["completion"], row["label"]) for row in made] == [("ab", False), ("abcd", True)]
    assert [row["completion"] for row in label(*args, "--to", "best")[0]] == ["abcd", "aa"]


def test_without_a_key_an_endpoint_is_asked_without_one(label, jsonl, endpoint, asking, monkeypatch):
    url, seen = endpoint(longer)
    label("--data", jsonl("a.jsonl", *ANSWERS), "--by", url, *asking)
    assert {key for _, key, _ in seen} == {None}
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    label("--data", jsonl("a.jsonl", *ANSWERS), "--by", url, *asking)
    assert seen[-1][1] == "Bearer usual"


@pytest.mark.parametrize(
    ("said", "code", "part"),
    [
        ((401, b'{"error": "wrong key sk-very-secret"}'), 4, "HTTP 401"),
        ((404, b"no such model"), 4, "no such model"),
        ((500, b"out of memory"), 7, "out of memory"),
        ((200, b"<html>sk-very-secret"), 4, "JSON object"),
        ((200, b'{"choices": []}'), 4, "choices[0].message.content"),
        ("I cannot say.", 3, "gives nothing to write; left out: 2 tied, 2 with one answer"),
    ],
)
def test_an_endpoint_that_fails_ends_the_run_without_a_file(
    prefcli, jsonl, endpoint, asking, monkeypatch, own_folder, said, code, part
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    url, _ = endpoint(lambda _: said)
    result = prefcli("label", "--data", jsonl("a.jsonl", *ANSWERS), "--by", url, *asking, "--out", "made.jsonl")
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part in result.stderr and "Traceback" not in result.stderr and "very-secret" not in result.output
    assert not (own_folder / "made.jsonl").exists()


# By people


def test_people_are_handed_the_options_and_what_they_cannot_use_is_refused(prefcli, jsonl, monkeypatch):
    called = []
    human = types.ModuleType("prefcli.labelling.human")
    human.run = lambda config, reporter: called.append(config) or {"rows": 3}
    monkeypatch.setitem(sys.modules, "prefcli.labelling.human", human)
    args = ["label", "--data", jsonl("a.jsonl", *ANSWERS), "--by", "human", "--seed", "4", "--out", "made.jsonl"]
    assert prefcli(*args).stdout == "made.jsonl\n" and json.loads(prefcli(*args, "--json").stdout) == {"rows": 3}
    assert [(config.seed, config.out, config.skip_bad) for config in called] == [(4, "made.jsonl", False)] * 2
    human.run = lambda config, reporter: called.append(config) or {"rows": 0}
    assert prefcli(*args).stdout == ""  # there is no file then
    for more in (["--to", "best"], ["--gold", "rm"], ["--to", "binary", "--threshold", "1"], ["--judge-prompt", "q"]):
        assert prefcli(*args, *more).exit_code == 2 and len(called) == 3


# What is refused


DECISION = {"prompt": "q", "by": "ann", "at": "2026-01-01", "seconds": 1.5}
SIDES = {"chosen": "a", "rejected": "bb", "shown": ["chosen", "rejected"]}


@pytest.mark.parametrize("said", [SIDES, {"completion": "a", "label": True}], ids=["comparison", "thumb"])
def test_what_people_decided_is_not_replaced(prefcli, jsonl, length, own_folder, said):
    people, data = jsonl("people.jsonl", DECISION | said), jsonl("a.jsonl", *ANSWERS)
    before = people.read_bytes()
    commands = {
        "label": ["--data", data, "--by", length],
        "score": ["--data", data, "--reward", length],
        "sample": ["--prompts", data, "--model", "tiny"],
    }
    for command, args in commands.items():
        result = prefcli(command, *args, "--out", people)
        assert result.exit_code == 2 and "a person decided" in result.stderr, command
        assert people.read_bytes() == before and not list(own_folder.glob("*.partial"))


def test_rows_that_were_made_of_people_s_decisions_are_written_again(prefcli, jsonl, length):
    people = jsonl("people.jsonl", DECISION | SIDES)
    few = ["--max-new-tokens", "4", "--temperature", "1"]
    for _ in range(2):
        for args in (["label", "--data", people, "--by", length], ["score", "--data", people, "--reward", length],
                     ["sample", "--prompts", people, "--model", "tiny", *few]):  # fmt: skip
            result = prefcli(*args, "--out", f"{args[0]}.jsonl")
            assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["--by", "{r}", "--out", "made.jsonl"], 2, "--data is missing"),
        (["--data", "a.jsonl", "--out", "made.jsonl"], 2, "--by is missing"),
        (["--data", "a.jsonl", "--by", "{r}"], 2, "--out is missing"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "made.json"], 2, ".jsonl"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "no/made.jsonl"], 2, "no directory no"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "./a.jsonl"], 2, "one of the files of --data"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "made.jsonl", "--threshold", "1"], 2, "--threshold"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "made.jsonl", "--to", "triples"], 2, "--to"),
        (["--data", "a.jsonl", "--by", "{r}", "--out", "made.jsonl", "--judge-prompt", "q.txt"], 2, "--judge-prompt"),
        (["--data", "a.jsonl", "--by", "judge:", "--out", "made.jsonl"], 2, "no model is named"),
        (["--data", "a.jsonl", "--by", "{r}", "--gold", "judge:tiny", "--out", "made.jsonl"], 2, "gold is a reward"),
        (["--data", "a.jsonl", "--by", "judge:http://h/v1", "--out", "made.jsonl"], 2, "no model is named"),
        (["--data", "a.jsonl", "--by", "judge:http://#m", "--out", "made.jsonl"], 2, "not a URL"),
        (
            ["--data", "a.jsonl", "--by", "judge:http://u:pw@h/v1#m", "--out", "made.jsonl"],
            2,
            "a password or a key in a URL",
        ),
        (["--data", "a.jsonl", "--by", "judge:http://h/v1#m#t=1", "--out", "made.jsonl"], 2, "#timeout=SECONDS"),
        (
            ["--data", "a.jsonl", "--by", "judge:http://h/v1#m", "--judge-key-env", "NONE_SUCH", "--out", "made.jsonl"],
            2,
            "no such environment variable",
        ),
        (
            ["--data", "a.jsonl", "--by", "judge:tiny", "--judge-key-env", "NONE_SUCH", "--out", "made.jsonl"],
            2,
            "not an endpoint",
        ),
        (["--data", "none.jsonl", "--by", "{r}", "--out", "made.jsonl"], 3, "none.jsonl"),
        (["--data", "prompts.jsonl", "--by", "{r}", "--out", "made.jsonl"], 3, "expected columns"),
        (["--data", "text.jsonl", "--by", "{r}", "--out", "made.jsonl"], 3, "two different answers"),
        (["--data", "text.jsonl", "--by", "{r}", "--to", "best", "--out", "made.jsonl"], 3, "an answer"),
        # before any is scored
        (["--data", "alone.jsonl", "--by", "http://127.0.0.1:1/x", "--out", "made.jsonl"], 3, "two different answers"),
        (["--data", "ties.jsonl", "--by", "{r}", "--out", "made.jsonl"], 3, "1 tied"),
        (["--data", "a.jsonl", "--by", "judge:tiny", "--judge-prompt", "q.txt", "--out", "made.jsonl"], 3, "no {{b}}"),
        (["--data", "a.jsonl", "--by", "judge:tiny", "--judge-prompt", "none", "--out", "made.jsonl"], 3, "No such"),
        (["--data", "a.jsonl", "--by", "nobody", "--out", "made.jsonl"], 4, "nobody"),
        (["--data", "a.jsonl", "--by", "judge:nobody", "--out", "made.jsonl"], 4, "nobody"),
        (["--data", "a.jsonl", "--by", "tiny", "--out", "made.jsonl"], 4, "--by judge:tiny"),
        (["--data", "a.jsonl", "--by", "judge:rm", "--out", "made.jsonl"], 4, "score with it: --by rm"),
        (["--data", "a.jsonl", "--by", "{r}", "--gold", "sft", "--out", "made.jsonl"], 4, "--gold sft"),
        (["--data", "a.jsonl", "--by", "python:none.py:score", "--out", "made.jsonl"], 4, "--by python:none.py"),
        (
            ["--data", "a.jsonl", "--by", "http://127.0.0.1:1/x", "--tokenizer", "nobody", "--out", "made.jsonl"],
            4,
            "nobody",
        ),
        (["--data", "a.jsonl", "--by", "{r}", "--tokenizer", "tiny", "--out", "made.jsonl"], 2, "has no effect"),
        (["--data", "a.jsonl", "--by", "judge:tiny", "--tokenizer", "tiny", "--out", "made.jsonl"], 2, "has no effect"),
        (
            ["--data", "a.jsonl", "--by", "judge:http://h/v1#m", "--tokenizer", "tiny", "--out", "made.jsonl"],
            2,
            "no reward here is one (a judge is sent its own question)",
        ),
        (["--data", "a.jsonl", "--by", "judge:http://127.0.0.1:{port}/v1#m", "--out", "made.jsonl"], 7, "not answer"),
    ],
)
def test_what_cannot_be_labelled_is_refused(chain, prefcli, jsonl, length, own_folder, args, code, part):
    jsonl("a.jsonl", *ANSWERS)
    jsonl("alone.jsonl", *ANSWERS[-2:], {"prompt": "p", "completion": "same"})
    jsonl("ties.jsonl", *ANSWERS[3:5])
    jsonl("prompts.jsonl", {"prompt": "p"})
    jsonl("text.jsonl", {"text": "a"}, {"text": "bb"})
    write(own_folder / "q.txt", "{prompt} {a}")
    result = prefcli("label", *[arg.format(r=length, port=closed_port()) for arg in args])
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part.format() in result.stderr and "Traceback" not in result.stderr and "pw" not in result.stderr
    assert not any((own_folder / name).exists() for name in ("made.json", "made.jsonl"))
