"""The picture of a run's curves."""

from __future__ import annotations

import json

import pytest
from matplotlib.figure import Figure

from prefcli.stages.curves import draw


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    seen = []
    save = Figure.savefig
    monkeypatch.setattr("prefcli.stages.curves.Figure", Figure)  # conftest.py has none drawn
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **more: (seen.append(self), save(self, *a, **more))[1])
    return seen


def run(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_stage_leaves_its_curves(chain, figures):
    for stage in ("sft", "rm", "ppo", "dpo"):
        picture = chain.path(stage) / "report" / "curves.png"
        picture.unlink()  # there since the run, blank
        assert draw(chain.path(stage), stage) == picture and picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert all(len(figure.axes) > 1 and figure.axes[0].lines for figure in figures) and len(figures) == 4


def test_what_was_logged_is_drawn_and_alarms_are_marked(own_folder, figures):
    rows = [{"step": s, "objective/scores": s / 2, "judge/gold": -s, "objective/kl": 0.1 * s} for s in range(1, 6)]
    rows[3] |= {"alarm/explosion": 1.0, "objective/kl": "nan"}
    assert draw(run(own_folder, rows), "ppo@v1") == own_folder / "report" / "curves.png"
    reward, kl = [axes for axes in figures[0].axes if axes.axison]
    assert reward.get_title(loc="left") == "reward"
    lines = {line.get_label(): list(line.get_ydata()) for line in reward.lines}
    assert lines["objective/scores"] == [0.5, 1, 1.5, 2, 2.5] and lines["judge/gold"] == [-1, -2, -3, -4, -5]
    assert list(reward.lines[-1].get_xdata()) == [4, 4]  # the alarm
    assert len(kl.lines[0].get_ydata()) == 4  # what is no number is left out


def test_a_single_step_is_no_curve(own_folder, figures):
    assert draw(run(own_folder, [{"step": 1, "loss": 1.0}]), "sft@v1") is None
    assert figures == [] and not (own_folder / "report").exists()
