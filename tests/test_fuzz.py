"""Random inputs through the command line (hypothesis): whatever they are, they are done or refused, never a defect.

The quick part runs with all tests, the same inputs each time. PREFCLI_FUZZ=N tries N times as many, drawn anew.
"""

from __future__ import annotations

import copy
import csv
import gzip
import hashlib
import io
import json
import os
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from conftest import DEMO, PAIR, artifact_in, write
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from prefcli import exchange
from prefcli.artifacts.references import TINY
from prefcli.artifacts.store import Store
from prefcli.cli.main import app
from prefcli.rewards import http

TIMES = int(os.environ.get("PREFCLI_FUZZ", "1"))
ODD = ["", " ", "\n", "\0", "\t", "\r", "\u2028", "\ufeff", "\ud800", "é", "😀", "\x1b[31m", "[/bold]", "[red]", "{}",
       "[]"]  # fmt: skip
VALUES = [None, True, False, 0, -1, 1, 2, 2**70, 1e400, 1e-400, float("nan"), [], {}, [[]], [None], {"a": {}}, *ODD]
NAMES = ["sft", "rm", "v1", "..", ".", "/", "@", "@v", "@v1", "@v0", ":step", "step1", "tiny", ".gguf", "runs", ":",
         "=", "-", "--", "~", "$HOME", "*", "9" * 5000, "%s", "%00", "\\", "//", "owner/name", "file.py", "score",
         "python:", "http://", "https://", "127.0.0.1:1", "#timeout=", "?key=", "judge:", "runs/sft/v1", "v1.partial",
         *ODD]  # fmt: skip
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
FORMS = [
    DEMO,
    PAIR,
    {"prompt": "q"},
    {"text": "a"},
    {"messages": CHAT},
    {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"prompt": "q", "completion": "a", "label": True},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2.0]},
]
KEYS = [*{key for form in FORMS for key in form}, "role", "content", "data", "weight", *ODD]
PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"\r",
    b"&a *a",
    b"[" * 5000,
]


def quick(examples):
    """So many inputs in the quick part."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # shrinking would take minutes: the first input that fails is shown as it is
        print_blob=TIMES > 1,
        suppress_health_check=list(HealthCheck),
    )


def prefcli(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="prefcli")


def accepted_or_refused(*args):
    result = prefcli(*args)
    told = f"{args!r}: exit {result.exit_code}, {result.exception!r}\n…{result.output[-600:]}"
    assert result.exit_code in (0, 2, 3, 4, 5, 6, 7), told
    assert "Traceback" not in result.output, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    if result.exit_code:
        assert result.stdout == "" and result.stderr.strip(), told


# Inputs


odd = st.sampled_from(ODD) | st.text(max_size=8)
values = st.recursive(
    st.sampled_from(VALUES) | st.text(max_size=8) | st.integers(-3, 3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=4), st.integers(1, 3)),
    max_size=4,
)


def edited(content, changes, cut=1.0):
    """A few bytes removed, repeated, replaced or put in, each (place, bytes taken, piece, times); cut at the end."""
    found = bytearray(content)
    for place, taken, piece, times in changes:
        at = int(place * len(found))
        found[at : at + taken] = piece * times
    return bytes(found[: int(cut * len(found))])


def mutated(content):
    return st.builds(edited, st.just(content), edits, st.just(1.0) | st.floats(0, 1))


@st.composite
def objects(draw, base, depth=2):
    """A JSON object like `base`, with a few of its entries, or of those in them, changed, added or taken away."""
    found = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(0, 3))):
        inside = found
        for _ in range(draw(st.integers(0, depth))):
            deeper = [
                v
                for v in (inside.values() if isinstance(inside, dict) else inside)
                if isinstance(v, (dict, list)) and v
            ]
            inside = draw(st.sampled_from(deeper)) if deeper else inside
        if isinstance(inside, list):
            inside[draw(st.integers(0, len(inside) - 1))] = copy.deepcopy(draw(values))
            continue
        key = draw(st.sampled_from([*inside, *ODD, "extra", "label"]))
        if draw(st.integers(0, 4)):
            inside[key] = copy.deepcopy(draw(values))  # the next round may change it
        else:
            inside.pop(key, None)
    return found


def as_csv(rows):
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(rows[0])
    table.writerows([str(value) for value in row.values()] for row in rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(rows):
    out = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    except (pyarrow.lib.ArrowException, ValueError, TypeError, OverflowError):  # no table can hold these
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["q", None], "completion": ["a", ""]}), out)
    return out.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITE = {
    "jsonl": as_lines,
    "jsonl.gz": lambda rows: gzip.compress(as_lines(rows), mtime=0),
    "json": lambda rows: json.dumps(rows).encode(),
    "csv": as_csv,
    "parquet": as_parquet,
}


@st.composite
def data_files(draw):
    """(ending, bytes): rows of a known form with entries changed, then bytes changed."""
    form = draw(st.sampled_from(FORMS))
    rows = [draw(objects(form)) for _ in range(draw(st.integers(1, 3)))]
    rows = [row or {"prompt": "q"} for row in rows]
    ending = draw(st.sampled_from(list(WRITE)))
    content = WRITE[ending](rows)
    if ending == "jsonl.gz" and draw(st.booleans()):
        content = gzip.compress(draw(mutated(as_lines(rows))), mtime=0)
    return ending, draw(mutated(content)) if draw(st.booleans()) else content


references = (
    st.lists(st.sampled_from(NAMES) | odd, min_size=1, max_size=4).map("".join).map(lambda t: t.replace("\0", ""))
)


# Where they go


@pytest.fixture
def stopped(monkeypatch):
    """Training commands end where training would begin."""

    def prepare_only(config):
        from prefcli.stages.inputs import prepare
        from prefcli.stages.plan import summary

        summary(prepare(config))

    monkeypatch.setattr("prefcli.cli.train.run", prepare_only)


@pytest.fixture
def place(own_folder):
    """A store with artifacts that no library could load, and a reward."""
    for name in ("sft", "rm"):
        artifact_in(Store(), name)
    write(own_folder / "r.py", "def score(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n")
    write(own_folder / "file.py", (own_folder / "r.py").read_text())
    write(own_folder / "p.jsonl", '{"prompt": "q"}\n')
    write(own_folder / "pairs.jsonl", json.dumps(PAIR) + "\n")
    return own_folder


YAML = b"lr: 1e-5\nmodel_name_or_path: sft\ndata: [a.jsonl, b.jsonl]\nbatch-size: 8\njson: true\nname: ~\nbeta: 0.1\n"
YAML_KEYS = ["lr", "beta", "data", "model", "json", "batch_size", "lora_alpha", "dtype", "config", "nonsense", *ODD,
             "bf16", "datasets", "stage", "pref_loss", "lora_target", "warmup_steps", "dataset", "use_peft", "top_p",
             "per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps", "galore_rank"]  # fmt: skip
yaml_files = mutated(YAML) | st.dictionaries(st.sampled_from(YAML_KEYS), values, max_size=3).map(
    lambda entries: "\n".join(f"{key}: {json.dumps(value)}" for key, value in entries.items()).encode(
        "utf-8", "replace"
    )
)


def test_files_of_options(place, monkeypatch):
    monkeypatch.setattr("prefcli.cli.train.run", lambda config: None)

    @quick(30)
    @given(yaml_files)
    def tried(content):
        write(place / "c.yaml", content)
        accepted_or_refused("dpo", "--config", "c.yaml")

    tried()


def test_data_files(place, stopped):
    commands = [("sft", "--data"), ("dpo", "--data"), ("train-rm", "--data"), ("kto", "--data"), ("ppo", "--prompts")]
    options = [[], ["--skip-bad"], ["--max-rows", "1"], ["--eval-data", "p.jsonl"]]

    @quick(50)
    @given(data_files(), st.sampled_from(commands), st.sampled_from(options))
    def tried(file, command, more):
        ending, content = file
        write(place / f"rows.{ending}", content)
        reward = ["--reward", "python:r.py:score"] if command[0] == "ppo" else []
        more = more if command[0] != "ppo" or more[:1] != ["--eval-data"] else []
        accepted_or_refused(*command, f"rows.{ending}", "--model", "sft", *reward, *more)

    tried()


def test_references_names_and_rewards(place, stopped):
    ppo, dpo = ["ppo", "--prompts", "p.jsonl", "--model", "sft"], ["dpo", "--data", "pairs.jsonl"]
    ways = st.sampled_from([
        ["show", "--"], ["rm", "--dry-run", "--"], ["gc", "--dry-run", "--runs="], ["ls", "--runs="],
        ["compare", "sft", "--"], ["mem-estimate", "--model="], [*dpo, "--model", "sft", "--name="], ["dpo", "--data="],
        [*ppo, "--reward="], [*ppo, "--reward", "rm", "--reference="], [*dpo, "--model="],
        [*ppo, "--reward", "python:r.py:score", "--value-init="],
        ["data", "convert", "pairs.jsonl"], [],
    ])  # fmt: skip

    @quick(40)
    @given(ways, references)
    def tried(way, text):
        words = [*way[:-1], way[-1] + text] if way and way[-1].endswith("=") else [*way, text]
        accepted_or_refused(*words)

    tried()


@pytest.fixture
def adapter(place):
    """dpo@v1, an adapter on sft@v1, with all that a manifest can hold, and an unfinished version beside it."""
    config = {
        "base_model_name_or_path": str(place / "runs/sft/v1/model"),
        "task_type": "CAUSAL_LM",
        "peft_type": "LORA",
    }
    log = '{"step": 1, "loss": 0.5, "alarm/kl": 1}\n{"step": 2}\n'
    store = Store()
    dpo = artifact_in(
        store,
        "dpo",
        files={
            "model/adapter_config.json": json.dumps(config),
            "model/adapter_model.safetensors": "x",
            "metrics.jsonl": log,
        },
        parents={"model": store.open("sft", 1)},
        data=[{"path": "a", "format": "b", "rows": 1, "digest": "c"}],
        metrics={"loss": 0.5, "accuracy_ci95": [0.4, 0.6]},
        resources={"a_bytes": 7, "steps": 2, "train_seconds": 1.0},
        config={"lr": 0.1, "model": "sft"},
    )
    with pytest.raises(RuntimeError), store.writer("dpo", "key") as draft:
        draft.note({"key": "key", "environment": {}, "parents": dpo.manifest.parents})
        with draft.save(1, keep=False) as state:
            write(state / "x", "x")
        raise RuntimeError
    write(store.root / ".digests.json", json.dumps({str(dpo.path): [1, 2, 3, 4, "d"]}))
    write(dpo.path / "../.highest", "1")
    return dpo.path


def test_files_of_an_artifact(place, stopped, adapter):
    targets = ["manifest.json", "model/adapter_config.json", "metrics.jsonl", "../v2.partial/run.json",
               "../../.digests.json", "../.highest"]  # fmt: skip
    whole = {name: (adapter / name).read_bytes() for name in targets}
    dpo = ["dpo", "--data", "pairs.jsonl", "--model"]
    ways = [
        ["ls"], ["ls", "--json"], ["show", "dpo"], ["show", "dpo", "--json"], ["show", "dpo@v1", "--verify"],
        ["rm", "sft@v1", "--dry-run"], ["gc", "--dry-run", "--keep", "1"], ["mem-estimate", "--model", "dpo"],
        ["report", "dpo", "--output", "page.html", "--force"], ["compare", "dpo", "sft"], [*dpo, "dpo"],
        [*dpo, "runs/dpo/v1/model"],
    ]  # fmt: skip

    @quick(25)
    @given(st.data())
    def tried(data):
        name = data.draw(st.sampled_from(targets))
        content = whole[name]
        if data.draw(st.booleans()):
            base = json.loads(content.splitlines()[0] if name.endswith("jsonl") else content)
            content = json.dumps(data.draw(objects(base) if isinstance(base, dict) else values)).encode()
        else:
            content = data.draw(mutated(content))
        try:
            write(adapter / name, content)
            if name == "model/adapter_config.json":  # one that its manifest believes
                manifest = json.loads(whole["manifest.json"])
                manifest["files"][name] = hashlib.sha256(content).hexdigest()
                write(adapter / "manifest.json", json.dumps(manifest))
            for way in (data.draw(st.sampled_from(ways)), data.draw(st.sampled_from(ways))):
                accepted_or_refused(*way)
        finally:
            for each, before in whole.items():
                write(adapter / each, before)

    tried()


def test_model_directories(own_folder):
    """Real ones, opened by transformers."""
    shutil.copytree(TINY, own_folder / "m")
    write(own_folder / "m/chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}")
    targets = [path.name for path in sorted((own_folder / "m").iterdir()) if path.suffix in (".json", ".jinja")]
    whole = {name: (own_folder / "m" / name).read_bytes() for name in targets}
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(TINY),
        "r": 2,
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj"],
    }

    @quick(3)
    @given(st.data())
    def tried(data):
        name = data.draw(st.sampled_from([*targets, "adapter_config.json", "model.safetensors"]))
        if name == "model.safetensors":
            weights = (TINY / name).read_bytes()
            start = data.draw(mutated(weights[:2000]))
            content = start + weights[2000:] if data.draw(st.booleans()) else start
        elif name.endswith(".jinja") or not data.draw(st.integers(0, 3)):
            content = data.draw(mutated(whole.get(name, json.dumps(adapter).encode())))
        else:
            content = json.dumps(data.draw(objects(json.loads(whole[name]) if name in whole else adapter))).encode()
        try:
            write(own_folder / "m" / name, content)
            if name == "adapter_config.json":
                shutil.copy(TINY / "model.safetensors", own_folder / "m/adapter_model.safetensors")
            accepted_or_refused("export", "m", "out", "--force", "--quiet")
        finally:
            for extra in ("adapter_config.json", "adapter_model.safetensors"):
                (own_folder / "m" / extra).unlink(missing_ok=True)
            shutil.copy(TINY / "model.safetensors", own_folder / "m/model.safetensors")
            for each, before in whole.items():
                write(own_folder / "m" / each, before)

    tried()


def test_answers_of_a_service(place, monkeypatch):
    answers = [{"rewards": [1.0, 0.5]}, {"scores": [1.0, 0.5]}]
    write(place / "pairs.jsonl", json.dumps(PAIR) + "\n")
    monkeypatch.setattr(http, "BACKOFF", 0.0)

    @quick(15)
    @given(
        st.sampled_from(answers).flatmap(objects).map(lambda found: json.dumps(found).encode())
        | mutated(b'{"rewards": [1, 2]}')
    )
    def tried(content):
        monkeypatch.setattr(exchange, "post", lambda *_, **__: exchange.Answer(200, "OK", bytearray(content)))
        accepted_or_refused("score", "--data", "pairs.jsonl", "--reward", "http://127.0.0.1:1/", "--quiet")

    tried()
