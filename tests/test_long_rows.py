"""A row far longer than it is cut to costs its reading: the rest is not tokenised, and what is kept is the same."""

from __future__ import annotations

import json
import time

import pytest
from conftest import write
from transformers import AutoTokenizer

from prefcli.artifacts.places import TINY
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.tokenising import encode_demo, encode_labelled, encode_pair

CHAT = [{"role": "user", "content": "Why?"}]
WORDS = "Mira keeps the kite in the barn, and nobody asks why. Über Äpfel: 7 €\n\n  "
END = "<|end|>"


@pytest.fixture(scope="module")
def encoder():
    return Encoder(AutoTokenizer.from_pretrained(TINY))


class Whole(Encoder):
    """One that tokenises all of a text, as was done before."""

    def _beginning(self, text, most):
        return text


@pytest.mark.parametrize("prompt", ["", "Once upon a time", CHAT, [*CHAT, {"role": "assistant", "content": WORDS * 3},
                                                                   {"role": "user", "content": "And?"}]])  # fmt: skip
@pytest.mark.parametrize(
    "text",
    [
        "short", WORDS * 60, "x" * 5_000, "日本語" * 1500, " " * 5_000, "\n" * 1500 + "end",
        WORDS * 2 + END + WORDS * 60,
        WORDS * 60 + END, WORDS * 2 + END + WORDS * 60 + END + "more", "a b " * 1500,
    ],
)  # fmt: skip
def test_what_is_kept_of_a_long_text_is_what_it_was(encoder, prompt, text):
    whole = Whole(encoder.tokenizer)
    for most in (8, 90):
        demo = Row(prompt, completion=text)
        assert encode_demo(demo, encoder, most, False) == encode_demo(demo, whole, most, False)
        assert encode_demo(demo, encoder, most, True) == encode_demo(demo, whole, most, True)
        labelled = Row(prompt, completion=text, label=True)
        assert encode_labelled(labelled, encoder, most) == encode_labelled(labelled, whole, most)
        pair = Row(prompt, chosen="No. " + text, rejected=text)
        assert encode_pair(pair, encoder, most) == encode_pair(pair, whole, most)
        if text != "short":
            long = Row(text if isinstance(prompt, str) else [{"role": "user", "content": text}], completion="Yes.")
            assert encode_demo(long, encoder, most, True) == encode_demo(long, whole, most, True)


def test_a_row_of_five_megabytes_is_read_and_not_tokenised(prefcli, own_folder):
    rows = [{"prompt": "Hi", "completion": "Hello."}] * 3 + [{"prompt": "Hi", "completion": WORDS * (5_000_000 // 70)}]
    write(own_folder / "long.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    began = time.process_time()
    result = prefcli("sft", "--model", "tiny", "--data", "long.jsonl", "--dry-run", "--quiet", "--json")
    assert result.exit_code == 0, result.stderr
    assert time.process_time() - began < 6  # it was 21 s when all of it was tokenised, by a machine of 2026
