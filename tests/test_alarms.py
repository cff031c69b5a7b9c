"""What an alarm of a watcher does to a ppo run: --on-alarm warn, stop, rollback."""

from __future__ import annotations

import json

import pytest

from prefcli.rl.ppo import PPO
from prefcli.watch.watchers import Watchers

# A rate so high that the ratio leaves its range at once.
WILD = ["--lr", "0.05", "--warmup", "0", "--max-steps", "6", "--ppo-epochs", "3"]


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_warn_says_it_and_goes_on(chain, prefcli):
    result = prefcli(*chain.args("ppo"), *WILD)
    path = chain.path_of(result)
    assert "explosion at rollout" in result.stderr
    assert len(rows(path)) == 6


def test_a_tame_run_is_silent(chain, prefcli):
    result = prefcli(*chain.args("ppo"), "--max-steps", "4", "--lr", "1e-5")
    chain.path_of(result)
    for name in ("explosion", "reward hacking", "mode collapse", "stalling"):
        assert name not in result.stderr


def test_stop_ends_with_6_and_a_version_that_can_be_used_and_is_not_reused(chain, prefcli):
    command = [*chain.args("ppo"), *WILD, "--on-alarm", "stop", "--name", "wild"]
    result = prefcli(*command)
    assert result.exit_code == 6 and result.stdout == ""
    assert "explosion at rollout" in result.stderr and "wild@v1" in result.stderr
    manifest = json.loads((chain.runs / "wild/v1/manifest.json").read_text())
    assert manifest["status"] == "stopped" and manifest["resources"]["steps"] < 6
    assert prefcli(*command).exit_code == 6 and (chain.runs / "wild/v2").is_dir()
    used = prefcli("eval", "--model", "wild@v1", "--prompts", chain.data("held_out_prompts"), "--max-new-tokens", "2")
    assert used.exit_code == 0, used.stderr


def test_rollback_goes_back_softer_and_gives_up_after_three(chain, prefcli):
    command = [*chain.args("ppo"), "--max-steps", "4", "--on-alarm", "rollback", "--save-every", "1", "--lr", "1e-5"]
    # From the third rollout on the reward breaks the loss, so that each attempt goes back to the second.
    budget = ["--kl-coef", "0.1"]
    source = chain.folder / "broken.py"
    source.write_text(
        "def score(prompts, completions, **columns):\n"
        "    score.calls += 1\n"
        "    return [1e30 if score.calls > 3 else 0.1 * len(c) for c in completions]\n"
        "score.calls = 0\n"
    )
    result = prefcli(*command, *budget, "--reward", f"python:{source}:score", "--name", "back")
    assert result.exit_code == 6
    for text in ("rollback 1 of 3", "rollback 3 of 3", "after 3 rollbacks", "KL coefficient 0.2", "KL coefficient 0.8"):
        assert text in result.stderr
    assert [row["step"] for row in rows(chain.runs / "back/v1")] == [1, 2]


def test_a_rollback_can_bring_the_run_home(chain, prefcli, monkeypatch):
    asked, step = [], PPO.step

    def asking(self, prompts, *more):
        asked.append([prompt.row.prompt_text for prompt in prompts])
        return step(self, prompts, *more)

    monkeypatch.setattr(PPO, "step", asking)
    source = chain.folder / "once.py"
    source.write_text(
        "def score(prompts, completions, **columns):\n"
        "    score.calls += 1\n"
        "    return [1e30 if score.calls == 4 else 0.1 * len(c) for c in completions]\n"
        "score.calls = 0\n"
    )
    command = [*chain.args("ppo"), "--max-steps", "4", "--on-alarm", "rollback", "--save-every", "1", "--warmup", "0"]
    command += ["--lr", "1e-5", "--lr-scheduler", "constant", "--reward", f"python:{source}:score", "--name", "home"]
    result = prefcli(*command)
    path = chain.path_of(result)
    found = rows(path)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row["lr"] for row in found] == pytest.approx([1e-5, 1e-5, 5e-6, 5e-6])
    assert [row["objective/kl_coef"] for row in found] == pytest.approx([0.05, 0.05, 0.1, 0.1])
    third = asked[2]  # its alarm sent the run back to the second, from where the same prompts come again
    assert len(asked) == 5 and asked[3] == third and third not in (asked[0], asked[1], asked[4])


def test_a_reward_of_weight_0_judges_and_moves_nothing(chain, prefcli, monkeypatch):
    shown, observe = [], Watchers.observe

    def seeing(self, step, metrics, answers):
        lengths = [float(len(text)) for text in answers.completions]
        shown.append((dict(answers.judges), {"judge": lengths}, list(answers.scores), len(answers.totals)))
        return observe(self, step, metrics, answers)

    source = chain.folder / "judge.py"
    source.write_text("def score(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    plain = chain.path_of(prefcli(*chain.args("ppo"), "--name", "plain"))
    judged = [*chain.args("ppo"), "--reward", f"judge=python:{source}:score", "--reward-weight", "judge=0"]
    monkeypatch.setattr(Watchers, "observe", seeing)
    path = chain.path_of(prefcli(*judged, "--name", "judged"))
    for judges, expected, sources, count in shown:  # what the watchers are there to compare
        assert judges == expected and (sources, count) == (["rm"], 8)
    assert len(shown) == 2
    for mine, theirs in zip(rows(path), rows(plain)):
        assert mine["objective/scores"] == theirs["objective/scores"] and mine["grad_norm"] == theirs["grad_norm"]
        assert mine["judge/judge"] > 0
    alone = prefcli(*chain.args("ppo"), "--reward-weight", "rm=0")
    assert alone.exit_code == 2 and "every reward has weight 0" in alone.stderr
