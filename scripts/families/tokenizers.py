"""Small tokenizers in the style of each family: how it cuts text, its special tokens, its chat template.

The templates are worded here; only the markers of turns are the families' own, since they are what a template is.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from scripts.families import templates
from scripts.families.rows import SENTENCES

MERGES = 90  # tokens beside the bytes


@dataclass(frozen=True)
class Style:
    """`cut` is byte-level, sentencepiece or unigram; `more` are further special tokens, in the order of their ids.

    `before`, `after`: special tokens put around a text. `ends`: what ends an answer beside eos (generation config).
    """

    cut: str
    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    more: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    template: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def special(self) -> list[str]:
        named = (self.unk, self.bos, self.eos, self.pad)
        return list(dict.fromkeys(token for token in (*named, *self.more) if token))


END = "<|endoftext|>"
STYLES: dict[str, Style] = {
    "gpt2": Style("byte-level", END, bos=END, unk=END),  # one token for all, none for padding, no template
    "codegen": Style("byte-level", END, bos=END, unk=END),
    "neox": Style("byte-level", END, bos=END, unk=END, pad="<|padding|>"),
    "falcon": Style("byte-level", END, more=(">>TITLE<<", ">>SUFFIX<<"), template=templates.NAMED),
    "starcoder": Style("byte-level", END, bos=END, unk=END, more=("<fim_prefix>", "<fim_suffix>", "<file_sep>")),
    "bloom": Style("byte-level", "</s>", bos="<s>", unk="<unk>", pad="<pad>"),
    "opt": Style("byte-level", "</s>", bos="</s>", unk="</s>", pad="<pad>", before=("</s>",)),
    "zephyr": Style("byte-level", END, bos=END, unk=END, more=("<|user|>", "<|assistant|>", "<|system|>"),
                    template=templates.lines("<|{role}|>", END)),
    "llama2": Style("sentencepiece", "</s>", bos="<s>", unk="<unk>", before=("<s>",), template=templates.INST),
    "mistral": Style("sentencepiece", "</s>", bos="<s>", unk="<unk>", before=("<s>",), more=("[INST]", "[/INST]"),
                     template=templates.INST),
    "tekken": Style("byte-level", "</s>", bos="<s>", unk="<unk>", pad="<pad>", before=("<s>",),
                    more=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]"),
                    template=templates.TEKKEN),
    "llama3": Style("byte-level", "<|eot_id|>", bos="<|begin_of_text|>", before=("<|begin_of_text|>",),
                    more=("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"), ends=("<|end_of_text|>",),
                    template=templates.headed("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "llama4": Style("byte-level", "<|eot|>", bos="<|begin_of_text|>", pad="<|finetune_right_pad|>",
                    before=("<|begin_of_text|>",), more=("<|end_of_text|>", "<|header_start|>", "<|header_end|>"),
                    ends=("<|end_of_text|>",),
                    template=templates.headed("<|header_start|>", "<|header_end|>", "<|eot|>")),
    "chatml": Style("byte-level", "<|im_end|>", pad=END, more=("<|im_start|>",), ends=(END,),
                    template=templates.chatml()),
    "qwen3": Style("byte-level", "<|im_end|>", pad=END, more=("<|im_start|>", "<think>", "</think>"), ends=(END,),
                   template=templates.chatml(thinks=True)),
    "qwen-vl": Style("byte-level", "<|im_end|>", pad=END, ends=(END,), template=templates.chatml(),
                     more=("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")),
    "gemma": Style("sentencepiece", "<eos>", bos="<bos>", pad="<pad>", unk="<unk>", before=("<bos>",),
                   more=("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>",
                         "<end_of_image>", "<audio_soft_token>"),
                   ends=("<end_of_turn>",), template=templates.GEMMA),
    "phi3": Style("sentencepiece", END, bos="<s>", pad=END, unk="<unk>",
                  more=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), ends=("<|end|>",),
                  template=templates.lines("<|{role}|>", "<|end|>", last=END)),
    "deepseek": Style("byte-level", "<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>", pad="<｜end▁of▁sentence｜>",
                      before=("<｜begin▁of▁sentence｜>",), more=("<｜User｜>", "<｜Assistant｜>"),
                      template=templates.DEEPSEEK),
    "glm": Style("byte-level", END, pad=END, more=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
                 before=("[gMASK]", "<sop>"), ends=("<|user|>",), template=templates.GLM),
    "cohere": Style("byte-level", "<|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>", pad="<PAD>", unk="<UNK>",
                    before=("<BOS_TOKEN>",), template=templates.COHERE,
                    more=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")),
    "granite": Style("byte-level", "<|end_of_text|>", bos="<|end_of_text|>", unk="<|end_of_text|>",
                     pad="<|end_of_text|>", more=("<|start_of_role|>", "<|end_of_role|>"),
                     template=templates.headed("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", gap="")),
    "harmony": Style("byte-level", "<|return|>", bos="<|startoftext|>", pad=END,
                     more=("<|start|>", "<|end|>", "<|message|>", "<|channel|>"), ends=(END,),
                     template=templates.HARMONY),
    "exaone": Style("byte-level", "[|endofturn|]", bos="[BOS]", pad="[PAD]", unk="[UNK]",
                    more=("[|user|]", "[|assistant|]", "[|system|]"),
                    template=templates.lines("[|{role}|]", "[|endofturn|]")),
    "hunyuan": Style("byte-level", "<｜hy_place▁holder▁no▁2｜>", bos="<｜hy_begin▁of▁sentence｜>", pad="<｜hy_▁pad▁｜>",
                     more=("<｜hy_User｜>", "<｜hy_Assistant｜>"), template=templates.HUNYUAN),
    "seed": Style("byte-level", "<seed:eos>", bos="<seed:bos>", pad="<seed:pad>",
                  template=templates.lines("<seed:bos>{role}", "<seed:eos>")),
    "ernie": Style("sentencepiece", "</s>", bos="<s>", pad="<unk>", unk="<unk>", more=("<|begin_of_sentence|>",),
                   template=templates.ERNIE),
    "xglm": Style("unigram", "</s>", bos="<s>", pad="<pad>", unk="<unk>", before=("</s>",)),
}  # fmt: skip


@functools.cache
def _backend(name: str) -> str:
    style = STYLES[name]
    special = [AddedToken(token, special=True, normalized=False) for token in style.special]
    if style.cut == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=256 + MERGES + len(special), special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
        made.train_from_iterator(SENTENCES, trainer)
    elif style.cut == "sentencepiece":
        made = _sentencepiece(style)
        made.add_special_tokens(special)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=MERGES + 60, special_tokens=special, unk_token=style.unk, show_progress=False
        )
        made.train_from_iterator(SENTENCES, trainer)
    if style.before or style.after:
        made.post_processor = TemplateProcessing(
            single=" ".join((*style.before, "$A", *style.after)),
            special_tokens=[(token, made.token_to_id(token)) for token in dict.fromkeys(style.before + style.after)],
        )
    return str(made.to_str())


def _sentencepiece(style: Style) -> Tokenizer:
    """A space before the text, and bytes for letters that it does not know."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=MERGES + 60, show_progress=False))
    model = json.loads(plain.to_str())["model"]
    words = [*style.special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    made = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [tuple(merge) for merge in model["merges"]],
                   unk_token=style.unk, fuse_unk=True, byte_fallback=True)
    )  # fmt: skip
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    style = STYLES[name]
    tokens = {"bos_token": style.bos, "eos_token": style.eos, "pad_token": style.pad, "unk_token": style.unk}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(name)),
        clean_up_tokenization_spaces=False,
        **{kind: token for kind, token in tokens.items() if token is not None},
    )
    tokenizer.chat_template = style.template
    return tokenizer
