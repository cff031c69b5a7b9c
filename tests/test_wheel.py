"""A wheel built from the tree works where it alone is installed: `tiny` is in it, and no file of the tree is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_alone_trains_on_tiny(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "prefcli", source / "prefcli", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("prefcli-*.whl")
    assert wheel.stat().st_size < 10e6
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    assert "prefcli/models/tiny/model.safetensors" in names
    assert {
        "prefcli/report/report.html.j2",
        "prefcli/report/report.css",
        "prefcli/ui/label.html.j2",
        "prefcli/ui/ui.js",
    } <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "scripts", "sample_data"))]
    data = tmp_path / "demos.jsonl"
    data.write_text('{"prompt": "Where is it?", "completion": "In the barn."}\n' * 4)
    # -I leaves out the environment's paths, so that the tree cannot be found; the wheel's folder is put in by hand.
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import prefcli, prefcli.cli.main as m\n"
        "assert prefcli.__file__.startswith(sys.path[0]), prefcli.__file__\n"
        "m.main()"
    )
    command = ["sft", "--model", "tiny", "--data", str(data), "--max-steps", "1", "--batch-size", "2"]
    env = {"PREFCLI_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed), *command],
        capture_output=True, text=True, cwd=tmp_path, env=env,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == str(tmp_path / "runs" / "sft" / "v1")
