"""The frozen reference, and its log-probabilities of pairs: computed when first asked for, kept for later runs."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prefcli.artifacts.unfinished import one_at_a_time
from prefcli.files import digest_json
from prefcli.models.adapters import merged
from prefcli.models.devices import computed_on
from prefcli.models.generation import evaluation_mode
from prefcli.models.loading import load_policy
from prefcli.models.logps import runs_packed, token_logps
from prefcli.models.rows import Rows
from prefcli.models.sharding import is_sharded, most
from prefcli.models.shared import SharedRole, start_of
from prefcli.models.tokenizers import check_tokenizer
from prefcli.progress import Reporter
from prefcli.stages.policy import Opened
from prefcli.stages.session import Session

FOLDER = ".cache/reference-logps"  # below the artifact store
REFERENCE = "reference"  # the name of an adapter
SUM = "sha256"  # in the file's metadata: of the numbers


class ReferenceLogps:
    """Σ_t log π_ref of both answers of every pair.

    `file` keeps them between runs; None where the reference cannot be pinned. A run that goes on has `saved` ones and
    does not look there: values that were computed in other rows differ in their last digits. `run` opens the context
    in which `model` is the reference (its adapter switched off, say), in evaluation mode.
    """

    def __init__(self, pairs: int, file: Path | None, saved: Tensor | None = None) -> None:
        self.file = file
        self.logps = torch.full((pairs, 2), torch.nan) if saved is None else saved.clone()
        if saved is None and file is not None:
            kept = _kept(file)
            if kept is not None and kept.shape == self.logps.shape:
                self.logps = kept
        self._known = int(self.known) if saved is None else 0  # in the file
        self.newest: list[int] = []  # pairs whose values are of the step that runs
        self.model: nn.Module | None = None
        self.run: Callable[[], AbstractContextManager[Any]] | None = None

    @property
    def known(self) -> int:
        """Pairs whose values are there."""
        return int((~self.logps.isnan().any(1)).sum())

    def of(self, pairs: list[int], rows: Rows) -> Tensor:
        """[2b] of the pairs with these numbers, whose `rows` [2b] are chosen, rejected, chosen, rejected, …"""
        known = self.logps[pairs]
        missing = bool(known.isnan().any())
        asked = self.model is not None and is_sharded(self.model) and most(int(missing))  # by any process
        if missing or asked:
            assert self.model is not None and self.run is not None
            with torch.no_grad(), self.run():
                found = token_logps(self.model, rows).logps.sum(1).view(-1, 2).cpu()
            if missing:  # else it is another process that had to know
                self.newest += pairs
                self.logps[pairs] = known = found
        return known.flatten().to(rows.input_ids.device)

    def drop_newest(self) -> None:
        """Forget them: when the step is repeated they are computed in the same rows, and so are the same."""
        self.logps[self.newest] = torch.nan
        self.newest.clear()

    def save(self, reporter: Reporter) -> None:
        """Keep what was computed, beside what another process or run has kept meanwhile; where that cannot be, it is
        said."""
        if self.file is None or self.known == self._known:
            return
        draft = self.file.with_suffix(f".{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self.file.parent):
                kept = _kept(self.file)
                if kept is None or kept.shape != self.logps.shape:
                    kept = self.logps
                logps = torch.where(self.logps.isnan(), kept, self.logps)
                save_file({"logps": logps}, draft, {SUM: _sum(logps)})
                draft.replace(self.file)
        except (SafetensorError, OSError) as error:
            with suppress(OSError):
                draft.unlink()
            reporter.notice(f"the reference's log-probabilities cannot be kept for a later run: {error}")


def _kept(file: Path) -> Tensor | None:
    """What was computed before; None where the file is missing, damaged or was changed."""
    try:
        with safe_open(file, "pt") as found:
            logps, expected = found.get_tensor("logps"), (found.metadata() or {}).get(SUM)
    except (SafetensorError, OSError):
        return None
    return logps if expected == _sum(logps) else None


def _sum(logps: Tensor) -> str:
    return hashlib.sha256(logps.contiguous().numpy().tobytes()).hexdigest()


def cache_file(
    root: Path,
    digest: str | None,
    device: torch.device,
    dtype: torch.dtype,
    pairs: Sequence[dict[str, Any]],
    in_4bit: bool = False,
    packed: bool = True,
    split: bool = False,
    weights: torch.dtype = torch.float32,
    merge: bool = False,
) -> Path | None:
    """Where the values of this reference (by digest, how it is held and how its rows run) on these ids are kept.

    It computes in `dtype` with `weights`, which in 16 bits are float32 under autocast or narrow themselves; `merge`:
    its adapter is merged. On rows of another kind, another kind of device or under other versions the last digits
    differ, and a first loss would not be exact.
    """
    if digest is None:
        return None
    held, rows = "nf4" if in_4bit else "whole", "packed" if packed else "padded"
    held = "split" if split and dtype != torch.float32 else held  # norms and embeddings are rounded when gathered
    how = [digest, computed_on(device, dtype), str(weights), held, "merged" if merge else "plain", rows]
    key = hashlib.sha256(digest_json(how).encode())
    for pair in pairs:
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            key.update(array("q", [len(pair[name]), *pair[name]]).tobytes())
    return root / FOLDER / f"{key.hexdigest()[:32]}.safetensors"


def shares_policy(run: Session, opened: Opened) -> bool:
    """Whether the reference is the starting model, and an adapter is trained: it is in memory then."""
    return run.inputs.references["reference"] == run.inputs.model and isinstance(opened.model, PeftModel)


def below(run: Session, opened: Opened) -> SharedRole | None:
    """The reference that shares the policy's weights, where one does: the base below the adapter, or a frozen copy of
    the parent's adapter. To be made before the policy is packed."""
    return start_of(opened.model, opened.continued, REFERENCE) if shares_policy(run, opened) else None


def is_merged(run: Session, opened: Opened) -> bool:
    """Whether the reference is an adapter that is merged into its base, as the policy's was."""
    return _merges(run, not opened.continued if shares_policy(run, opened) else not isinstance(opened.model, PeftModel))


def _merges(run: Session, asked: bool) -> bool:
    return asked and run.inputs.references["reference"].is_adapter and not run.inputs.config.load_in_4bit


def open_reference(run: Session, policy: Any, tokenizer: Any) -> Any:
    """The frozen reference from its files, packed where the policy is.

    None, TRL's word for the starting model itself, would make it read the weights once more from disk, where a
    GGUF file or a model with a token added does not stand as it is in memory; so it is loaded here.
    """
    adapted = isinstance(policy, PeftModel)
    reference = load_reference(run, tokenizer, merge=not adapted)
    if runs_packed(policy) or run.mesh is not None:
        run.packs(reference, "reference")
    if not adapted and run.mesh is None:
        hold_as_autocast(reference, run.dtype)
    return reference


def load_reference(run: Session, tokenizer: Any, *, merge: bool) -> Any:
    """The frozen reference from its files, in the dtype of the policy's weights: `hold_as_autocast` comes once it is
    packed. `merge` as the policy was merged: else the two differ by rounding."""
    reference, in_4bit = run.inputs.references["reference"], run.inputs.config.load_in_4bit
    if reference != run.inputs.model:
        check_tokenizer("--reference", reference, tokenizer, run.reporter)
    model = load_policy(
        reference,
        dtype=run.opens_in(reference, tokenizer),
        device=run.opens_on,
        trainable=False,
        tokenizer_size=len(tokenizer),
        in_4bit=in_4bit,
    )
    model = merged(model) if _merges(run, merge) else model
    return model.eval().requires_grad_(False)


def hold_as_autocast(model: Any, dtype: torch.dtype) -> None:
    """Make a frozen float32 model smaller that is only run under autocast to `dtype`, to the bit of what it computes.

    Autocast casts the weights of linear layers at each use: they are cast once, here. All else it computes in float32
    (norms, the stream of embeddings): that stays, but for embeddings that lose nothing in `dtype`, as those of a
    checkpoint in it, whose output is cast back. Before the first update a policy and its reference then differ by
    nothing, in 16 bits too.
    """
    if dtype == torch.float32 or (dtype, model.device.type) == (torch.float16, "cpu"):  # accelerate casts nothing there
        return
    embeddings = model.get_input_embeddings()
    table, computed = embeddings.weight, embeddings.weight.dtype
    exact = torch.equal(table.to(dtype).to(table.dtype), table)
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and (exact or module.weight is not table):
            module.to(dtype)
    if exact:
        embeddings.to(dtype)
        embeddings.register_forward_hook(lambda _module, _inputs, output: output.to(computed))


@contextmanager
def reference_at_work(model: Any, accelerator: Any) -> Iterator[None]:
    """The model as the frozen reference, in evaluation mode."""
    with evaluation_mode(model), accelerator.autocast():
        yield
