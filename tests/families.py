"""Small tokenizers of five families, trained on a few sentences: how each cuts text, not how well."""

from __future__ import annotations

import functools
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefcli.artifacts.references import TINY

TEXT = ["Where is the kite? The kite is in the barn.", "Mira keeps a red lamp on the porch, and so on."] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "<|im_end|>", "<|pad|>", "<|im_start|>", "[UNK]", "[CLS]", "[SEP]"]
NAMES = ("byte-level BPE", "SentencePiece BPE", "SentencePiece BPE, first", "Unigram", "WordPiece", "letters")
LOSSLESS = NAMES[:3]  # any text comes back from its ids


@functools.cache
def backend_of(name: str) -> str:
    if name.startswith("SentencePiece"):  # Llama's: a space before the text, bytes for letters it does not know
        plain = Tokenizer(models.BPE())
        plain.pre_tokenizer = pre_tokenizers.Metaspace()
        plain.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=120))
        model = json.loads(plain.to_str())["model"]
        words = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
        merges = [tuple(merge) for merge in model["merges"]]
        made = Tokenizer(
            models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="[UNK]", fuse_unk=True,
                       byte_fallback=True)
        )  # fmt: skip
        made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
        if name.endswith("first"):
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        before, after = "<s> ", ""
    elif name == "Unigram":  # T5's: the end token behind every text
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        made.train_from_iterator(
            TEXT, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="[UNK]")
        )
        before, after = "", " <|im_end|>"
    elif name == "WordPiece":  # BERT's
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL))
        before, after = "[CLS] ", " [SEP]"
    else:
        made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        made.decoder = decoders.Fuse()
        made.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=SPECIAL))
        before, after = "", ""
    made.post_processor = TemplateProcessing(
        single=f"{before}$A{after}",
        special_tokens=[(word, made.token_to_id(word)) for word in (before + after).split()],
    )
    return str(made.to_str())


def tokenizer_of(name: str, template: str | None = CHATML, **special: str | None) -> PreTrainedTokenizerFast:
    if name == "byte-level BPE":
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        if template is None:
            return tokenizer
        special = {"bos_token": None} | special
    else:
        words = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "unk_token": "[UNK]"}
        words |= {"bos_token": "<s>"} if name.startswith("SentencePiece") else {}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(backend_of(name)), clean_up_tokenization_spaces=False,
            **(words | special),
        )  # fmt: skip
    tokenizer.name_or_path = name
    tokenizer.chat_template = template.replace("<|im_end|>", str(tokenizer.eos_token)) if template else None
    return tokenizer
