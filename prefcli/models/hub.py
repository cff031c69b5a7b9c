"""A directory to the hub. The token comes from the environment, goes into the requests, and is written nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from prefcli.errors import SurroundingsError, UsageError
from prefcli.models.classes import HEAD
from prefcli.models.tokenizers import TOKENIZER_FILES
from prefcli.text import first_line

TOKEN = "HF_TOKEN"
# What an earlier export may have left in the repository: of an adapter and a whole model transformers opens the former.
# With a reward model's head beside it a language model would be taken for a reward model; another tokenizer's files
# would be read with this one's.
STALE = [
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_*",
    "config.json",
    "generation_config.json",
    HEAD,
    *TOKENIZER_FILES,
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
]


def token_for(repo: str) -> str:
    """The token to upload to `repo` with. Raises UsageError: no OWNER/NAME. SurroundingsError: no token."""
    try:
        validate_repo_id(repo)
        valid = repo.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(f"--push-to-hub {repo}: expected OWNER/NAME", "for example: --push-to-hub me/my-model")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise SurroundingsError(
            f"--push-to-hub {repo}: the environment has no {TOKEN}",
            f"make a token that may write at https://huggingface.co/settings/tokens, and: export {TOKEN}=…",
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SurroundingsError(f"--push-to-hub {repo}: {TOKEN} does not hold a token", "copy it again")
    return token


def push(folder: Path, repo: str, *, token: str, private: bool) -> str:
    """Upload the files of `folder`, in one commit, and return the repository's URL.

    Raises SurroundingsError: no network, a token that may not write, a public repository with `private`.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=True if private else None, exist_ok=True)
        exposed = private and not api.model_info(repo).private
        if not exposed:
            api.upload_folder(repo_id=repo, folder_path=folder, delete_patterns=STALE)
    except Exception as error:
        why = first_line(error).replace(token, "…")
        raise SurroundingsError(
            f"--push-to-hub {repo}: not uploaded ({why})",
            f"{folder} is written and checked; when the network and the token work: hf upload {repo} {folder} .",
        ) from error
    if exposed:
        raise SurroundingsError(
            f"--push-to-hub {repo}: not uploaded: it exists already, and is public",
            "choose another NAME, or leave --private out",
        )
    return f"{api.endpoint}/{repo}"
