"""Availability of a hub model: in the cache on this disk, or on a hub that answers. No torch.

What is in the cache is taken as it is, and nobody is asked. For the rest one short request is made before anything
heavy is imported, so that no network, a gated model and a misspelt name are told in seconds, each in its own words.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError, PrefcliError, SurroundingsError
from prefcli.text import first_line

P = ParamSpec("P")
T = TypeVar("T")
SECONDS = 2.0  # for the request; with the start of the command an answer comes within three
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# The variable of huggingface_hub's for a slow network; its own default of 10 s is too long for somebody who waits.
PATIENCE = "HF_HUB_ETAG_TIMEOUT"
_CONFIGS = ("config.json", "adapter_config.json")
_WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model")


def at_hand(reference: Reference) -> Reference:
    """The reference, with the commit of the hub model that it is or that its adapter is on, and a note where that is
    not cached but can be fetched.

    Raises SurroundingsError: the hub is not reached or forbidden, the model is gated. ArtifactError: no such model.
    """
    below = None if reference.base is None else reference.base.hub
    name = reference.text if reference.kind == "hub" else below
    if name is None:
        return reference
    found, note = snapshot(name), reference.note
    if found is not None:
        commit: str | None = found.name
    else:
        commit, note = ask(name), f"{name} is not on this machine yet, and is fetched from the hub"
    return replace(reference, note=note, commit=commit)


def snapshot(text: str) -> Path | None:
    """The directory of a hub id in the cache, where a configuration, weights and a tokenizer are in it."""
    name, _, revision = text.partition("@")
    folder = cache() / ("models--" + name.replace("/", "--"))
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    found = folder / "snapshots" / commit
    return found if commit and _is_whole(found) else None


def from_cache(opens: Callable[Concatenate[Reference, P], T]) -> Callable[Concatenate[Reference, P], T]:
    """A function that opens what is at a reference, and asks no hub where all of it is on this disk.

    transformers asks for several files of a model in turn, of those that it has not too, and with no network each takes
    half a minute of tries.
    """

    @functools.wraps(opens)
    def opened(reference: Reference, /, *args: P.args, **options: P.kwargs) -> T:
        if not _needs_no_hub(reference):
            return opens(reference, *args, **options)
        with unasked():
            return opens(reference, *args, **options)

    return opened


@contextmanager
def unasked() -> Iterator[None]:
    """With the hub's library offline: peft, for one, asks the hub for an adapter's base wherever it saves one."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _needs_no_hub(reference: Reference) -> bool:
    names = {reference.text} if reference.kind == "hub" else set()
    if reference.base is not None and reference.base.hub is not None:
        names.add(reference.base.hub)
    return all(snapshot(name) is not None for name in names)


def cache() -> Path:
    """The cache directory of huggingface_hub."""
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(above, "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expanduser(os.path.expandvars(named)))


def _is_whole(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in _CONFIGS):
        return False
    for kinds in (_WEIGHTS, _TOKENIZERS):
        if not any(file.is_file() for kind in kinds for file in folder.glob(kind)):
            return False
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return True  # a damaged one is told of where it is opened
        if not all((folder / str(shard)).is_file() for shard in shards):
            return False
    return True


def ask(text: str) -> str | None:
    """Ask the hub for a model, once and for `SECONDS` at most; its commit, if the hub says it. Raises as `at_hand`."""
    for variable in OFFLINE:
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise SurroundingsError(
                f"{text} is not on this machine, and {variable} is set",
                f"fetch it where there is a network: unset {variable}; {download(text)}",
            )
    said: list[str | None] = []
    failed: list[Exception] = []
    limit = _seconds()

    def request() -> None:
        try:
            said.append(_head(text, limit))
        except Exception as error:
            failed.append(error)

    # A daemon: a name server that does not answer cannot be interrupted, and is not waited for.
    asking = threading.Thread(target=request, daemon=True)
    asking.start()
    asking.join(limit)
    if asking.is_alive():
        raise _not_reached(text, f"no answer in {limit:g} s")
    if failed:
        raise cause(text, failed[0]) or _not_reached(text, _reason(failed[0], limit)) from failed[0]
    return said[0]


def fetch_config(text: str) -> Path:
    """The configuration of a hub id, fetched into the cache; that alone. Raises as `at_hand` does."""
    ask(text)
    name, _, revision = text.partition("@")
    hub: Any = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(name, _CONFIGS[0], revision=revision or None))
    except Exception as error:
        raise cause(text, error) or ArtifactError(
            f"{name} has no {_CONFIGS[0]} on the hub", "give a model, not an adapter"
        ) from error


def _seconds() -> float:
    try:
        return max(float(os.environ.get(PATIENCE, SECONDS)), SECONDS)
    except ValueError:
        return SECONDS


def _head(text: str, limit: float) -> str | None:
    """The commit, by a request for the file that every model has: its owner's leave is asked for files, and not for
    descriptions."""
    name, _, revision = text.partition("@")
    hub: Any = importlib.import_module("huggingface_hub")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    try:
        url = hub.hf_hub_url(name, _CONFIGS[0], revision=revision or None)
        found: str | None = hub.get_hf_file_metadata(url, timeout=limit).commit_hash
    except errors.EntryNotFoundError as error:  # an adapter has another file; whose repository it is in was found
        found = error.response.headers.get("X-Repo-Commit") if error.response is not None else None
    return found


def cause(text: str, error: BaseException) -> PrefcliError | None:
    """The hub library's error, from an exception or those it was raised from; None for anything else."""
    errors: Any = importlib.import_module("huggingface_hub.errors")
    chain = list(_chain(error))
    name, _, revision = text.partition("@")
    for one in chain:
        if isinstance(one, errors.GatedRepoError):
            return SurroundingsError(
                f"{name} is gated: its owner gives access on request",
                f"ask for access at {_endpoint()}/{name}, then log in with: hf auth login",
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return ArtifactError(
                f"{name} has no revision {revision or 'main'!r} on the hub", f"see {_endpoint()}/{name}/tree/main"
            )
        if isinstance(one, (errors.RepositoryNotFoundError, errors.HFValidationError)):
            return _unknown(name)
        if isinstance(one, errors.DisabledRepoError):
            return ArtifactError(f"{name}: the hub has closed the access to it", f"see {_endpoint()}/{name}")
    for one in chain:
        if isinstance(one, errors.HfHubHTTPError):
            return _refused(text, getattr(one.response, "status_code", None))
    if any(isinstance(one, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)) for one in chain):
        return _not_reached(text, "no answer")
    return None


def _unknown(name: str) -> ArtifactError:
    return ArtifactError(
        f"{name}: no such directory, and no such model on the hub, or a private one",
        "check the name; for a private one: hf auth login",
    )


def _refused(text: str, status: Any) -> PrefcliError:
    name = text.partition("@")[0]
    hub: Any = importlib.import_module("huggingface_hub")
    if status == 401 and hub.get_token() is None:  # which the hub answers for a name that it does not know, too
        return _unknown(name)
    if status in (401, 403):
        return SurroundingsError(f"{name}: the hub refuses your token", "log in again: hf auth login")
    return SurroundingsError(
        f"{text} is not on this machine, and the hub did not deliver it ({_endpoint()}: status {status})",
        f"try again later, or fetch it from elsewhere with: {download(text)}",
    )


def _not_reached(text: str, why: str) -> SurroundingsError:
    return SurroundingsError(
        f"{text} is not on this machine, and the hub was not reached ({_endpoint()}: {why})",
        f"check the path or the network ({PATIENCE}=30 waits longer for a slow one), or fetch it where there is one: "
        + download(text),
    )


def download(text: str) -> str:
    """The command that fetches a hub id into the cache."""
    name, _, revision = text.partition("@")
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _reason(error: Exception, limit: float) -> str:
    if "timeout" in type(error).__name__.lower():
        return f"no answer in {limit:g} s"
    return first_line(error, 200)


def _chain(error: BaseException | None) -> Any:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
