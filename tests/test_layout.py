"""The architecture, held: imports go downward, late imports stand in cli/ alone, the README's tree is true."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

from prefcli.cli.main import ALL
from prefcli.cli.passing_on import stage_of
from prefcli.config.base import typed_options
from prefcli.config.spelling import canonical

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "prefcli"
# Top to bottom (DESIGN): a module imports from its own folder and from those below it. The ground floor, from
# `progress` on, are files; so is `losses`.
LAYERS = ["cli", "api", "ui", "report", "comparison", "experiments", "stages", "labelling", "evaluation", "rl",
          "losses", "watch", "advice", "rewards", "models", "data", "memory", "artifacts", "config", "statistics",
          "progress", "stopping", "serving", "exchange", "machine", "files", "text", "urls", "errors"]  # fmt: skip
DOORS = ("__init__", "__main__")  # of the package, above all layers
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem not in DOORS]


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "prefcli" and len(parts) > 1 else None


def own_layer(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module or name in it, whether inside a function) of every import of a file; type-checking ones count too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, f"{path.relative_to(ROOT)}, line {node.lineno}: name the module"
            for alias in node.names:
                found.append((f"{node.module}.{alias.name}", id(node) in inside))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.append((alias.name, id(node) in inside))
    return found


def test_imports_go_downward_only():
    assert len(FILES) > 40
    seen = set()
    for path in FILES:
        own = own_layer(path)
        for module, _ in imports(path):
            other = layer_of(module)
            if other in LAYERS:
                assert LAYERS.index(other) >= LAYERS.index(own), f"{path.relative_to(ROOT)} imports {module}"
                seen.add((own, other))
    assert {("cli", "stages"), ("advice", "memory"), ("stages", "rl")} <= seen  # the fence looked at something


def test_every_module_has_its_place_in_the_layers():
    assert {own_layer(path) for path in FILES} == set(LAYERS)


def test_imports_inside_functions_stand_in_cli_alone():
    late = {own_layer(path) for path in FILES for _, inside in imports(path) if inside}
    assert late <= {"cli"}, late


def test_light_layers_do_not_import_torch():
    """In a fresh process: what runs before a stage (references, data, plan, memory) must not cost seconds."""
    light = ("prefcli.stages.inputs, prefcli.stages.plan, prefcli.memory.estimate, prefcli.artifacts.lineage, "
             "prefcli.advice.situation, prefcli.advice.decide, prefcli.advice.commands")  # fmt: skip
    code = f"import {light}, sys; print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_readme_tree_is_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## The tree", 1)[1]
    inner = re.findall(r"^      (\w+)/ ", block, re.MULTILINE)
    outer = re.findall(r"^    (\w+)/", block, re.MULTILINE)
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert sorted(inner) == sorted(folders)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert sorted(outer) == sorted(top)


def test_the_options_page_is_fresh():
    subprocess.run([sys.executable, str(ROOT / "scripts" / "options_reference.py"), "--check"], check=True)


def test_the_command_line_s_library_is_known_to_cli_alone():
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if re.search(
        r"^\s*(?:import|from) typer\b", path.read_text(encoding="utf-8"), re.M)}  # fmt: skip
    assert users == {"cli"}


def test_every_module_says_what_it_is_about():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_every_command_line_in_docs_and_scripts_has_options_that_exist():
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "extending.md"]  # its commands are run
    files = [ROOT / "README.md", *pages, *(ROOT / "docs").glob("*.sh"),
             *(ROOT / "docs").glob("*/*.sbatch"), *(ROOT / "docs").glob("*/*.yaml"),
             *(ROOT / "sample_data").glob("*.sh")]  # fmt: skip
    seen = 0
    for file in files:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in re.findall(r"(?:prefcli|\.sbatch) ([a-z][a-z-]+)((?: [^\n`|;#)]*)?)", text):
            if command == "data" and rest.split():
                command = f"data {rest.split()[0]}"
            if command not in ALL:
                continue
            known = typed_options(ALL[command].options())
            if command == "sweep":  # whose further options are the stage's
                known = known | typed_options(stage_of(rest.split()[0]).config) if rest.split() else known
            for given in re.findall(r"(?<= --)[a-z][\w-]*", rest):
                seen += 1
                found = canonical(given, known) or canonical(given.removeprefix("no-"), known)
                assert found or given == "help", f"{file.name}: prefcli {command} has no --{given}"
    assert seen > 100
