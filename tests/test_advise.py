"""`prefcli advise`: the right answer in described situations, commands that run, noise by closed form, honest sums."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shlex
from pathlib import Path

import pytest
from conftest import write

from prefcli.advice.commands import MAKERS, commands
from prefcli.advice.decide import decide
from prefcli.advice.evidence import EVIDENCE
from prefcli.advice.facts import METHODS, Facts
from prefcli.advice.hardware import STAGES, Fit, fits
from prefcli.advice.rules import HARD, RULES, SOFT
from prefcli.advice.script import TORCHRUN
from prefcli.cli.advise import broken
from prefcli.cli.advise_questions import ask
from prefcli.cli.main import COMMANDS
from prefcli.config.advise import AIMS, AdviseConfig
from prefcli.data.agreement import agreement
from prefcli.data.row import Row
from prefcli.memory.devices import device
from prefcli.memory.gpus import Device
from prefcli.memory.shapes import typical

ROOT = Path(__file__).parent.parent


def pairs(n, start=0):
    return [
        {"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"Nay {i}."} for i in range(start, start + n)
    ]


def twice(n, contradicted):
    """n pairs labelled by two people, who contradict each other in the first `contradicted`."""
    first = [row | {"by": "ann"} for row in pairs(n)]
    second = [row | {"by": "bob"} for row in pairs(n)]
    for row in second[:contradicted]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return first + second


@pytest.fixture
def files(jsonl):
    """The files of every situation, by name."""
    jsonl("pairs.jsonl", *pairs(300))
    jsonl("few.jsonl", *pairs(50))
    jsonl("more.jsonl", *pairs(300, 1000))
    jsonl("noisy.jsonl", *twice(150, 60))
    jsonl("certain.jsonl", *twice(150, 0))
    jsonl("labels.jsonl", *[{"prompt": f"Q {i}?", "completion": f"A {i}.", "label": i % 2 == 0} for i in range(40)])
    jsonl("demos.jsonl", *[{"prompt": f"Q {i}?", "completion": f"A {i}."} for i in range(40)])
    jsonl("prompts.jsonl", *[{"prompt": f"Q {i}?"} for i in range(600)])
    score = "def score(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    return write(Path("score.py").absolute(), score)


@pytest.fixture
def advise(prefcli, files):
    def run(words, code=0):
        result = prefcli("advise", "--json", *shlex.split(words))
        assert result.exit_code == code, result.stderr
        assert "Traceback" not in result.stderr
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


# One 7B model on one RTX4090, or on eight H100.
SMALL, LARGE = "--params 7B --gpu RTX4090", "--params 7B --gpu H100 --gpus 8"
REWARD = "--reward python:score.py:score"
SITUATIONS = {
    "new to preference learning": (f"--data pairs.jsonl {LARGE} --aim first-time", "dpo"),
    "little memory, one GPU": (f"--data pairs.jsonl --prompts prompts.jsonl {SMALL}", "dpo"),
    "training must be predictable": (f"--data pairs.jsonl {LARGE} --aim stability", "dpo"),
    "good pairs at hand": (f"--data pairs.jsonl {LARGE}", "dpo"),
    "research not about RLHF": (f"--data pairs.jsonl {LARGE} --aim research", "dpo"),
    "the reward is iterated on": (f"--data pairs.jsonl --prompts prompts.jsonl {LARGE} --aim iterate-on-reward", "ppo"),
    "many prompts, few preferences": (f"--data few.jsonl --prompts prompts.jsonl {LARGE}", "ppo"),
    "several objectives": (f"--data pairs.jsonl --data more.jsonl {LARGE} --aim several-objectives", "ppo"),
    "very large, with infrastructure": ("--data pairs.jsonl --params 34B --gpu H200 --gpus 32", "ppo"),
    "people and infrastructure": (f"--data pairs.jsonl {LARGE} --aim team", "ppo"),
    "only binary labels": (f"--data labels.jsonl {SMALL}", "kto"),
    "neither labels nor a judge": (f"--data demos.jsonl --prompts prompts.jsonl {SMALL}", "collect"),
    # and where the two routes are not the answer
    "noisy labels": (f"--data noisy.jsonl {SMALL}", "robust-dpo"),
    "certain labels": (f"--data certain.jsonl {SMALL}", "ipo"),
    "a judge, prompts, no pairs": (f"--prompts prompts.jsonl --judge 'https://h/v1#m' {SMALL}", "rlaif"),
    "a reward, prompts, no pairs": (f"--prompts prompts.jsonl {REWARD} --model tiny --gpu cpu", "rejection"),
    "a reward that changes": (f"--prompts prompts.jsonl {REWARD} --aim iterate-on-reward", "ppo"),
    "a judge that changes": (f"--prompts prompts.jsonl --judge m/m-8B --aim iterate-on-reward {LARGE}", "ppo"),
    "new labels keep coming": ("--data pairs.jsonl --prompts prompts.jsonl --aim online", "iterative-dpo"),
    "no memory for a value model": ("--data pairs.jsonl --params 1B --gpu V100-32GB --aim iterate-on-reward", "rloo"),
    "nothing": ("--model tiny", "collect"),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_answer_fits_the_situation_and_every_command_parses(advise, name, prefcli, monkeypatch):
    words, expected = SITUATIONS[name]
    advice = advise(words)
    assert advice["recommendation"] == expected, advice["facts"]["scores"]
    assert set(advice) == {"recommendation", "why", "runner_up", "would_change", "commands", "facts"}
    assert all(set(entry) == {"reason", "evidence", "source", "points"} for entry in advice["why"])
    assert sum(entry["points"] for entry in advice["why"]) == advice["facts"]["scores"][expected]
    seen = []
    monkeypatch.setattr("prefcli.artifacts.hub.ask", lambda _: None)  # its models need not be there
    for command, arguments in parsed(advice["commands"]):
        monkeypatch.setattr(f"prefcli.cli.{COMMANDS[command][0]}.run", seen.append)
        result = prefcli(command, *arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    assert seen
    for file in re.findall(r"[\w-]+\.jsonl", words):  # nothing that was given is forgotten
        assert any(file in line for line in advice["commands"]) or file == "prompts.jsonl"


def parsed(lines, **variables):
    """A shell's reading of lines: (command, arguments), variables replaced; assignments are kept as `NAME`."""
    for line in lines:
        into, _, inner = line.partition("=$(")
        line = inner.removesuffix(")") if inner else line
        if re.fullmatch(r"[A-Z]+=\S+", line):
            name, _, value = line.partition("=")
            variables.setdefault(name, value)
            continue
        line = re.sub(r"^torchrun --nproc-per-node \d+ -m prefcli", "prefcli", line)
        words = [variables.get(word[1:], word) if word.startswith("$") else word for word in shlex.split(line)]
        assert words[0] == "prefcli"
        yield words[1], words[2:]
        variables.setdefault(into, into)


def test_what_is_said_to_change_the_answer_does(advise):
    for words, _ in list(SITUATIONS.values())[1:12:3]:
        for change in advise(words)["would_change"]:
            found = re.search(r"\(--aim ([a-z-]+)\)", change["if"])
            if found:
                other = advise(f"{words} --aim {found[1]}")["recommendation"]
                assert METHODS[other].title == change["then"]


def test_the_commands_run(chain, prefcli, tmp_path):
    """One case for real, tiny and 32 rows: what is printed, with the sizes of a test at its end."""
    advice = json.loads(prefcli("advise", "--json", "--data", chain.data("pairs"), "--model", "tiny", "--prompts",
                                chain.data("held_out_prompts"), "--gpu", "cpu").stdout)  # fmt: skip
    assert advice["recommendation"] == "ipo"  # 32 pairs are few
    printed: dict[str, str] = {}
    small = {"sft": ["--max-steps", "1", "--batch-size", "4"], "dpo": ["--max-steps", "1", "--batch-size", "4"],
             "eval": ["--max-prompts", "2", "--max-new-tokens", "2"]}  # fmt: skip
    for line in advice["commands"]:
        ((command, words),) = parsed([line], **printed)
        result = prefcli(command, *words, *small[command])
        assert result.exit_code == 0, result.stderr
        printed[line.partition("=")[0]] = result.stdout.strip()
    assert [Path(printed[name]).is_dir() for name in ("SFT", "DPO")] == [True, True]


@pytest.mark.parametrize("method", ["dpo", "kto", "ppo", "rejection"])
def test_the_commands_of_other_methods_plan_with_real_artifacts(chain, prefcli, method):
    """--dry-run of every training command, with the models of the chain in the variables."""
    made = {kind: (chain.data("pairs"),) for kind in ("pairs",)} | {"prompts": (chain.data("prompts"),)}
    facts = Facts(pairs=32, prompts=32, model="tiny", files=made, rewards=() if method == "ppo" else ("rm@v1",))
    lines, _ = commands(method, facts)
    planned = 0
    for command, words in parsed(lines, SFT="sft@v1", RM="rm@v1", DPO="dpo@v1", PPO="ppo@v1", KTO="dpo@v1"):
        if command in ("sft", "train-rm", "dpo", "kto", "ppo") and "labelled.jsonl" not in words:
            result = prefcli(command, *words, "--dry-run")
            assert result.exit_code == 0, result.stderr
            planned += 1
    assert planned >= 1


def test_every_method_has_commands_and_names_that_break_nothing():
    facts = Facts(pairs=1, judge="m", model="a model", files={"pairs": ("my pairs'.jsonl",), "labels": ("x",)})
    assert set(MAKERS) == set(METHODS)
    for method in METHODS:
        lines, _ = commands(method, facts)
        assert [words for _, words in parsed(lines)]  # shlex reads every line
        assert any("my pairs'.jsonl" in words or "a model" in words for _, words in parsed(lines))
        for line in lines:
            joined = "\n".join(broken(line, 60))
            assert shlex.split(joined.replace("\\\n", " ")) == shlex.split(line)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/helpful.v2.jsonl", "harmless.json"), ["helpful", "harmless"]),
        (("a/pairs.jsonl", "b/pairs.jsonl"), ["objective1", "objective2"]),
        (("1st.jsonl", "second.jsonl"), ["objective1", "objective2"]),
    ],
)
def test_each_objective_has_a_reward_model_and_a_weight_of_its_own(files, names):
    facts = Facts(pairs=9, aims=frozenset({"several-objectives"}), model="sft", files={"pairs": files})
    found = dict(enumerate(parsed(commands("ppo", facts)[0])))
    trained = [words[words.index("--name") + 1] for command, words in found.values() if command == "train-rm"]
    assert trained == [f"rm-{name}" for name in names]
    (ppo,) = [" ".join(words) for command, words in found.values() if command == "ppo"]
    for name in names:
        assert f"--reward {name}=rm-{name} " in ppo and f"--reward-weight {name}=0.5" in ppo
    mixed = commands("dpo", facts)[0][0]
    assert [f"--data {file} --data-weight 0.5" in mixed for file in files] == [True, True]


# The data


def rows(raw):
    return [Row(r["prompt"], chosen=r["chosen"], rejected=r["rejected"], columns={"by": r.get("by")}) for r in raw]


def test_noise_is_that_of_the_closed_form():
    """Two labels, each wrong with 0.1 on its own, disagree with 2·0.1·0.9 = 0.18: of 100 pairs, 18."""
    found = agreement(rows(twice(100, 18)))
    assert found.estimate == pytest.approx(0.1, abs=1e-12)
    assert (found.relabelled, found.contradicted, found.confirmed, found.wrong) == (100, 18, 82, 18)
    assert 18 / 200 <= found.least < found.estimate


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.35])
def test_noise_is_recovered_from_labels_that_were_flipped(rate):
    """Three labels a pair, flipped by dice that the estimator does not know."""
    dice = random.Random(5)
    raw = []
    for row in pairs(1500):
        for by in "abc":
            flip = dice.random() < rate
            raw.append(row | {"by": by} | ({"chosen": row["rejected"], "rejected": row["chosen"]} if flip else {}))
    found = agreement(rows(raw))
    assert found.estimate == pytest.approx(rate, abs=0.03)
    assert found.wrong / found.rows <= rate and found.least <= found.estimate


def test_pairs_labelled_once_show_no_noise_and_copies_are_no_second_opinion():
    assert agreement(rows(pairs(20))).estimate is None
    found = agreement(rows(pairs(20) + pairs(5)))
    assert (found.copies, found.confirmed, found.least) == (5, 0, 0.0)
    assert agreement([]).least == 0


def test_a_reward_is_held_against_the_pairs(advise, jsonl):
    """score.py likes long answers: of these it is right in two of three, and one is a tie."""
    jsonl("three.jsonl", {"prompt": "p", "chosen": "longer", "rejected": "s"}, {"prompt": "q", "chosen": "longer",
          "rejected": "s"}, {"prompt": "r", "chosen": "s", "rejected": "longer"}, {"prompt": "t", "chosen": "ab",
          "rejected": "cd"})  # fmt: skip
    right = advise("--data three.jsonl --reward python:score.py:score --model tiny")["facts"]["reward_right"]
    assert right[0] == pytest.approx(2 / 3)
    jsonl("guess.jsonl", *[{"prompt": f"{i}", "chosen": "ab"[i % 2] * (1 + i % 2), "rejected": "c" * (2 - i % 2)}
                           for i in range(300)])  # fmt: skip
    words = "--prompts prompts.jsonl --data guess.jsonl --reward python:score.py:score --aim team --gpu cpu"
    guess, believed = advise(words), advise(words.replace("guess", "pairs"))  # no side is longer there: no opinion
    assert guess["facts"]["reward_right"][0] == 0.5
    assert guess["facts"]["scores"]["ppo"] == believed["facts"]["scores"]["ppo"] - 3
    assert guess["recommendation"] == "dpo" and "hardly better than guessing" not in str(guess["why"])


def test_rows_that_do_not_fit_are_counted_and_left_out_by_the_commands(advise, jsonl):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    jsonl("bad.jsonl", *pairs(10), same, {"prompt": "", "chosen": "a", "rejected": "b"})
    advice = advise("--data bad.jsonl --model tiny")
    assert (advice["facts"]["pairs"], advice["facts"]["same_sides"]) == (10, 1)
    assert all("--skip-bad" in line for line in advice["commands"] if "bad.jsonl" in line)


# Memory


def test_what_fits_is_what_the_memory_model_says():
    """7B, by hand: 16 bytes a trained and 2 a frozen parameter."""
    made = fits(typical(7_000_000_000), Device("x", 80 * 10**9, 8, bf16=True))
    dpo, ppo = made["dpo"], made["ppo"]
    assert dpo.processes == 8 and not dpo.lora and dpo.bytes >= 7e9 * 18 / 8
    assert ppo.processes == 8 and not ppo.lora and ppo.bytes >= 7e9 * (2 * 16 + 2 * 2) / 8
    assert "--shard" in dpo.options and "--shard" in ppo.options
    huge = fits(typical(140_000_000_000), Device("x", 80 * 10**9, 8, bf16=True))["dpo"]
    assert huge.lora and huge.processes == 8 and huge.bytes >= 140e9 * 2 / 8
    assert set(made) == set(STAGES)
    one = fits(typical(7_000_000_000), Device("x", 24 * 10**9, 1, bf16=True))
    assert one["dpo"].lora and "--lora-rank" in one["dpo"].options
    large = fits(typical(1_000_000_000), Device("x", 400 * 10**9, 1, bf16=True))
    assert large["ppo"] == Fit(large["ppo"].bytes) and large["ppo"].bytes > 1e9 * (2 * 16 + 2 * 2)
    assert large["ppo"].bytes - large["rloo"].bytes > 15e9  # the value model: 16 bytes a parameter
    assert not fits(typical(400_000_000_000), Device("x", 80 * 10**9, 8, bf16=True))["dpo"]


def test_advise_and_mem_estimate_give_one_answer(advise, prefcli):
    """The two questions that are asked most of 4 bits, and a rollout that is too large at once: each advised command
    fits by mem-estimate, and takes the bytes that were said."""
    for size, gpu in (("13B", "RTX4090"), ("70B", "H100"), ("7B", "RTX4090"), ("8B", "16GB")):
        found = advise(f"--data pairs.jsonl --prompts prompts.jsonl --params {size} --gpu {gpu}")["facts"]["fits"]
        for stage in ("dpo", "ppo", "sft", "kto"):
            fit = found[stage]
            assert fit, (size, gpu, stage)
            words = ["mem-estimate", "--json", "--params", size, "--gpu", gpu, "--stage", stage, *fit["options"]]
            result = json.loads(prefcli(*words).stdout)["methods"][stage]
            assert result["fits"] and result["bytes"] == fit["bytes"], (size, gpu, stage)
        assert (size in ("13B", "70B")) <= ("--load-in-4bit" in found["dpo"]["options"])


def test_nothing_is_recommended_that_does_not_fit(advise):
    assert "not even with an adapter on a base in 4 bits" in advise(
        "--data pairs.jsonl --params 400B --gpu H100", code=5
    )


def test_columns_and_splits_are_named_as_in_training_and_stand_in_the_commands(advise, prefcli, jsonl):
    rows = [{"question": f"Q {i}?", "good": f"yes {i}", "bad": f"no {i}"} for i in range(300)]
    jsonl("own.jsonl", *rows)
    names = "--map prompt=question --map chosen=good --map rejected=bad"
    advice = advise(f"--data own.jsonl {names} --params 1B --gpu H100")
    assert advice["facts"]["pairs"] == 300
    trained = [line for line in advice["commands"] if "own.jsonl" in line]
    assert trained and all(names in line for line in trained)
    assert "no column" in advise(f"--data own.jsonl --map chosen=better {SMALL}", code=3)


def test_split_runs_start_with_torchrun_and_say_shard(advise):
    advice = advise(f"--data pairs.jsonl {LARGE} --aim team")
    split = [line for line in advice["commands"] if "torchrun" in line]
    assert any(line.startswith(f"SFT=$({TORCHRUN.format(8)}") for line in split)
    assert all(" --shard" in line for line in split) and any("--shard" in note for note in advice["facts"]["notes"])


def test_gpus_are_found_by_nvidia_smi(monkeypatch, tmp_path):
    rows = "0, GPU-ab12, NVIDIA H100 80GB HBM3, 81559, 9.0", "1, GPU-cd34, Tesla T4, 15360, 7.5"
    text = "#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows)
    write(tmp_path / "nvidia-smi", text).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device(None, None) == Device("Tesla T4", 15360 * 1024**2, 2, False, "nvidia-smi, here")
    names = {"0": "H100", "1": "T4", "GPU-ab": "H100", " 1 ,0": "T4", "0,7,1": "H100", "-1": "CPU", "": "CPU"}
    for visible, name in names.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = device(None, None)
        assert name in found.name and found.count == {"CPU": 0, "H100": 1}.get(name, 1 + ("0" in visible)), visible
    write(tmp_path / "nvidia-smi", "#!/bin/sh\nexit 9\n").chmod(0o755)
    assert device(None, None).count == 0


# The rules


def test_scores_are_the_sums_of_the_rules_that_apply():
    facts = Facts(pairs=500, aims=frozenset({"stability", "team"}), gpus=1, files={"pairs": ("p",)})
    found = decide(facts).scores
    assert found == {m: sum(r.favours.get(m, 0) for r in SOFT if r.when(facts)) for m in found}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_every_rule_decides_something_and_has_its_evidence():
    for rule in RULES:
        assert bool(rule.favours) != bool(rule.rules_out), rule.name
        assert set(rule.favours) | set(rule.rules_out) <= set(METHODS)
        assert rule in HARD or rule.evidence, rule.name
    used = {key for rule in RULES for key in rule.evidence} | {"disputed", "disputed-too"}
    assert used == set(EVIDENCE)
    assert {name for rule in SOFT for name in AIMS if rule.name == name} == set(AIMS)  # every aim counts


def test_every_source_is_a_paper_or_a_page_that_has_the_figures():
    for key, evidence in EVIDENCE.items():
        if evidence.source.startswith("arXiv"):
            assert re.fullmatch(r"arXiv \d{4}\.\d{5}(, \d{4}\.\d{5})*", evidence.source)
            continue
        page = (ROOT / evidence.source.partition(":")[0].partition(",")[0]).read_text(encoding="utf-8")
        for figure in re.findall(r"\d\.\d\d", evidence.figure):
            assert figure in page, (key, figure)


# The terminal


def test_questions_are_asked_one_by_one_and_a_wrong_answer_again(files, capsys):
    typed = iter(["nowhere.jsonl\n", "pairs.jsonl\n", "\n", "\n", "\n", "xyz\n", "7B\n", "H1000\n", "H100\n", "8\n",
                  "1 team\n"])  # fmt: skip
    config = ask(AdviseConfig(json=True), lambda: next(typed))
    assert config == AdviseConfig(data=["pairs.jsonl"], params="7B", gpu="H100", gpus=8, aim=["first-time", "team"],
                                  json=True)  # fmt: skip
    asked = capsys.readouterr()
    assert asked.out == "" and "no such file" in asked.err and "unknown kind of GPU" in asked.err
    assert "xyz: no artifact" in asked.err


def test_q_and_the_end_of_the_input_leave_and_enter_takes_every_default(files):
    assert ask(AdviseConfig(), lambda: "q\n") is None
    assert ask(AdviseConfig(), io.StringIO("pairs.jsonl\n").readline) is None
    assert ask(AdviseConfig(), lambda: "\n") == AdviseConfig()


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_the_terminal_and_its_commands_can_be_pasted(prefcli, files, width, monkeypatch):
    monkeypatch.setattr("prefcli.cli.console.PIPE_WIDTH", width)
    page = prefcli("advise", "--data", "pairs.jsonl", "--prompts", "prompts.jsonl", "--params", "7B", "--gpu", "H100",
                   "--gpus", "8", "--aim", "team").stdout  # fmt: skip
    words = [line for line in page.splitlines() if len(line) > width]
    assert not words, words
    assert len(page.splitlines()) < 60
    body = page.split("\nRun\n")[1].split("\n  - ")[0].replace(" \\\n", " ")
    assert [command for command, _ in parsed([line.strip() for line in body.splitlines()])][:2] == ["sft", "train-rm"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "no option describes"),
        ("--aim sability", 2, "stability"),
        ("--params 7 --gpu H100", 2, "7B"),
        ("--gpu H1000 --params 7B", 2, "H100"),
        ("--gpus 3 --gpu cpu", 2, "--gpus 3"),
        ("--judge https://host/v1", 2, "#MODEL"),
        ("--judge judge:", 2, "no model is named"),
        ("--data nowhere.jsonl", 3, "no such file"),
        ("--data score.py", 3, "unknown kind of file"),
        ("--data empty.jsonl", 3, "holds no rows"),
        ("--data odd.jsonl", 3, "expected columns"),
        ("--data pairs.jsonl --model nosuch", 4, "nosuch"),
        ("--data pairs.jsonl --model missing.gguf", 4, "missing.gguf"),
        ("--data pairs.jsonl --reward python:score.py:nothing", 4, "nothing"),
        ("--reward nosuch", 4, "nosuch"),
        ("--data pairs.jsonl --params 900B --gpu T4", 5, "no method fits"),
    ],
)
def test_mistakes_are_told_with_their_exit_code(advise, jsonl, words, code, said):
    write(Path("empty.jsonl").absolute(), "")
    jsonl("odd.jsonl", {"a": 1})
    assert said in advise(words, code)


def test_a_model_of_unknown_size_rules_nothing_out_and_one_of_a_known_name_is_counted(prefcli, files):
    unknown = prefcli("advise", "--json", "--data", "pairs.jsonl", "--model", "someone/model", "--gpu", "H100")
    assert "memory was not checked" in unknown.stderr and json.loads(unknown.stdout)["facts"]["fits"] == {}
    named = prefcli("advise", "--json", "--data", "pairs.jsonl", "--model", "Qwen/Qwen2.5-7B-Instruct", "--gpu", "H100")
    facts = json.loads(named.stdout)["facts"]
    assert math.isclose(facts["params"], 7e9) and "by its name" in named.stderr
    assert not any(" sft " in line for line in json.loads(named.stdout)["commands"])  # it follows instructions
