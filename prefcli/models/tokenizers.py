"""A model's tokenizer, made fit for training: an end token, a padding token of its own, a chat template."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prefcli.artifacts.bases import is_adapter_directory
from prefcli.artifacts.hub import from_cache
from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError
from prefcli.models.failures import no_base, tokenizer_not_read
from prefcli.models.templates import inner
from prefcli.progress import SILENT, Reporter

# Written by this project for models that bring none: the turns of HH-RLHF's dialogues, each answer closed by EOS.
PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{{- '\\n\\nAssistant:' }}{% generation %}{{- ' ' + message.content + eos_token }}{% endgeneration -%}"
    "{%- elif message.role == 'user' -%}{{- '\\n\\nHuman: ' + message.content }}"
    "{%- else -%}{{- '\\n\\n' + message.content }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n\\nAssistant:' }}{%- endif -%}"
)
AFTER_BOS = "{{- bos_token -}}" + PLAIN_TEMPLATE  # for those who put one before every text
PAD = "<|pad|>"
_PADS = re.compile("pad", re.IGNORECASE)
_OF_OTHERS = re.compile("image|vision|video|audio|fim", re.IGNORECASE)  # <|image_pad|> stands for pictures
# Any of these is a tokenizer's; special_tokens_map.json, added_tokens.json and chat templates alone are none.
TOKENIZER_FILES = ("tokenizer*", "vocab*", "spiece.model", "sentencepiece*", "*.tiktoken")


@from_cache
def stored_tokenizer(reference: Reference, reporter: Reporter = SILENT) -> PreTrainedTokenizerBase:
    """The tokenizer at a reference, as it is: of ppo's value model the policy's, of an adapter that was saved without
    one its base's, with a notice. Raises ArtifactError: there is none.
    """
    where, extra = _place_of_tokenizer(reference, reporter)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
    except Exception as error:
        raise tokenizer_not_read(reference, error) from error
    return tokenizer


def beside_its_tokenizer(reference: Reference) -> Reference:
    """The directory of the tokenizer: a ppo run's value model uses the policy's."""
    path = reference.path
    if path is None or path.name != "value" or _has_tokenizer(path) or not (path.parent / "model").is_dir():
        return reference
    return replace(reference, path=path.parent / "model")


def _has_tokenizer(path: Path) -> bool:
    return any(next(path.glob(form), None) for form in TOKENIZER_FILES)


def _place_of_tokenizer(reference: Reference, reporter: Reporter) -> tuple[str, dict[str, Any]]:
    """The argument of `from_pretrained` for a reference's tokenizer."""
    reference = beside_its_tokenizer(reference)
    path, base = reference.path, reference.base
    if path is None or not is_adapter_directory(path) or _has_tokenizer(path):
        return source(reference)
    if base is None:
        raise no_base(reference.text)
    reporter.notice(f"{reference.text} is an adapter without a tokenizer: that of its base {base.ref} is taken")
    return base.place, {"revision": base.revision} if base.revision else {}


def load_tokenizer(reference: Reference, reporter: Reporter) -> PreTrainedTokenizerBase:
    """The tokenizer at a reference, with what it lacks added, and said.

    A padding token that is also the end token would hide from a reward model where an answer ends (transformers
    reads the score at the last token that is not padding), so another one is taken.
    Raises ArtifactError: no tokenizer, or one without an end token.
    """
    tokenizer = stored_tokenizer(reference, reporter)
    if tokenizer.eos_token_id is None:
        raise ArtifactError(
            f"{reference.text}: the tokenizer has no end-of-sequence token", "set eos_token in tokenizer_config.json"
        )
    if tokenizer.chat_template is None:
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = AFTER_BOS if begins else PLAIN_TEMPLATE
        reporter.notice(f"{reference.text} has no chat template: dialogues are written as Human: … Assistant: … turns")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        had = "no padding token" if tokenizer.pad_token_id is None else "the end token as padding"
        size = len(tokenizer)
        tokenizer.add_special_tokens({"pad_token": _padding(tokenizer)})
        added = " is added for it" if len(tokenizer) > size else ""
        reporter.notice(f"{reference.text} has {had}: {tokenizer.pad_token!r}{added or ' is taken for it'}")
    return tokenizer


def has_own_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """False where `load_tokenizer` added one. It is that very object then: one that training saved is only equal."""
    return not any(tokenizer.chat_template is ours for ours in (PLAIN_TEMPLATE, AFTER_BOS))


def _padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """A token made for padding, else the unknown token, else a new one (the embeddings grow by it)."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]  # no word of a user's
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    for token in [t for t in special if _PADS.search(t) and not _OF_OTHERS.search(t)] + [tokenizer.unk_token]:
        if token and tokenizer.convert_tokens_to_ids(token) not in taken:
            return str(token)
    return PAD


def end_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, and those that the model's generation config lists."""
    listed = getattr(generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, (list, tuple)) else [listed]
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    return frozenset({eos, *(token for token in listed if token is not None)})


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what turns text into ids: vocabulary, merges and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else dict(tokenizer.get_vocab())
    if isinstance(state, dict):
        state.pop("padding", None)  # how the last batch was padded or cut is not part of the tokenizer
        state.pop("truncation", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_tokenizer(option: str, reference: Reference, tokenizer: PreTrainedTokenizerBase, reporter: Reporter) -> None:
    """Raise ArtifactError where the model at `reference` would read the policy's ids as other tokens."""
    if tokenizer_digest(load_tokenizer(reference, reporter)) != tokenizer_digest(tokenizer):
        raise ArtifactError(
            f"{option} {reference.text} has another tokenizer than the policy",
            "it must read the same token ids: use a model of the same family",
        )


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what renders dialogues; that a reward model's ends at the end token makes no difference to it."""
    return hashlib.sha256(inner(str(tokenizer.chat_template)).encode()).hexdigest()


def source(reference: Reference) -> tuple[str, dict[str, Any]]:
    """The argument of `from_pretrained` for a reference."""
    if reference.kind == "gguf":
        assert reference.path is not None
        return str(reference.path.parent), {"gguf_file": reference.path.name}
    if reference.kind == "hub":
        name, _, revision = reference.text.partition("@")
        return name, {"revision": revision} if revision else {}
    assert reference.path is not None
    return str(reference.path.resolve()), {}  # which a new adapter's configuration names as its base
