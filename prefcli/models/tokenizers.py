"""A model's tokenizer, made fit for training: an end token, a padding token of its own, a chat template."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prefcli.artifacts.hub import from_cache
from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError
from prefcli.models.failures import tokenizer_not_read
from prefcli.progress import Reporter

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


@from_cache
def stored_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """The tokenizer at a reference, as it is. Raises ArtifactError: there is none."""
    where, extra = source(reference)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
    except Exception as error:
        raise tokenizer_not_read(reference, error) from error
    return tokenizer


def load_tokenizer(reference: Reference, reporter: Reporter) -> PreTrainedTokenizerBase:
    """The tokenizer at a reference, with what it lacks added, and said.

    A padding token that is also the end token would hide from a reward model where an answer ends (transformers
    reads the score at the last token that is not padding), so another one is taken.
    Raises ArtifactError: no tokenizer, or one without an end token.
    """
    tokenizer = stored_tokenizer(reference)
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
        tokenizer.pad_token = _padding(tokenizer)
        reporter.notice(f"{reference.text} has {had}: padding with {tokenizer.pad_token!r}")
    return tokenizer


def has_own_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """False where `load_tokenizer` added one. It is that very object then: one that training saved is only equal."""
    return not any(tokenizer.chat_template is ours for ours in (PLAIN_TEMPLATE, AFTER_BOS))


def _padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """A token made for padding, else the unknown token, else a new one (the embeddings grow by it)."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    for token in [t for t in special if "pad" in t.lower()] + [tokenizer.unk_token]:
        if token and token not in (tokenizer.eos_token, tokenizer.bos_token):
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
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def source(reference: Reference) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with for a reference."""
    if reference.kind == "gguf":
        assert reference.path is not None
        return str(reference.path.parent), {"gguf_file": reference.path.name}
    if reference.kind == "hub":
        name, _, revision = reference.text.partition("@")
        return name, {"revision": revision} if revision else {}
    return str(reference.path), {}


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
