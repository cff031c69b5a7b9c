"""What the model will really be shown: the rows as tokens, one of them in words, the trained part marked."""

from __future__ import annotations

from prefcli.data.lazy import looked_at
from prefcli.data.tokenising import Encoder, encode_demos, encode_labelled, encode_pairs
from prefcli.evaluation.lengths import length_bias
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.stages.inputs import Inputs, refuse_nothing_left

OPEN, CLOSE = "⟦", "⟧"


def preview(inputs: Inputs, reporter: Reporter) -> dict[str, str]:
    """Lines for a dry run: lengths, the share that is cut or left out, and an example."""
    config, rows = inputs.config, looked_at(inputs.data.rows)
    tokenizer = load_tokenizer(inputs.model, reporter)
    encoder = Encoder(tokenizer)
    decode = tokenizer.decode
    if inputs.stage == "ppo":
        lengths = [len(encoder.prompt_ids(row.prompt)) for row in rows]
        fits = sum(length <= config.max_prompt_length for length in lengths)
        refuse_nothing_left(fits, len(rows), config.max_prompt_length)
        return {
            "tokens": f"prompts {_spread(lengths)}; {len(rows) - fits} of {len(rows)} too long, left out",
            "example": decode(encoder.prompt_ids(rows[0].prompt)) + f"{OPEN}the answer, sampled and trained{CLOSE}",
        }
    if inputs.stage == "sft":
        demos, cut, dropped = encode_demos(rows, encoder, config.max_length, config.train_on_prompt)
        refuse_nothing_left(len(demos), dropped, config.max_length)
        first = demos[0]
        example = _marked(decode, first["input_ids"], first["completion_mask"])
        return {
            "tokens": f"rows {_spread([len(d['input_ids']) for d in demos])}; {_cut(cut, dropped, len(rows))}",
            "example": example,
        }
    if inputs.stage == "kto":
        answers, cut, dropped = encode_labelled(rows, encoder, config.max_length)
        refuse_nothing_left(len(answers), dropped, config.max_length)
        examples = {
            f"example {name}": decode(found["prompt_ids"]) + OPEN + decode(found["completion_ids"]) + CLOSE
            for name, label in (("desirable", True), ("undesirable", False))
            if (found := next((a for a in answers if a["label"] is label), None))
        }
        return {
            "tokens": f"prompts {_spread([len(a['prompt_ids']) for a in answers])}, "
            f"answers {_spread([len(a['completion_ids']) for a in answers])}; {_cut(cut, dropped, len(rows))}",
            **examples,
        }
    pairs, cut, dropped = encode_pairs(rows, encoder, config.max_length)
    refuse_nothing_left(len(pairs), dropped, config.max_length)
    first = pairs[0]
    return {
        "tokens": f"prompts {_spread([len(p['prompt_ids']) for p in pairs])}, "
        f"chosen {_spread([len(p['chosen_ids']) for p in pairs])}, "
        f"rejected {_spread([len(p['rejected_ids']) for p in pairs])}; {_cut(cut, dropped, len(rows))}",
        "length": length_bias([(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in pairs]).text,
        "example chosen": decode(first["prompt_ids"]) + OPEN + decode(first["chosen_ids"]) + CLOSE,
        "example rejected": decode(first["prompt_ids"]) + OPEN + decode(first["rejected_ids"]) + CLOSE,
    }


def _marked(decode: object, ids: list[int], mask: list[int]) -> str:
    """Text with the tokens that the loss reads between ⟦ and ⟧."""
    text, start = "", 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or mask[end] != mask[start]:
            piece = decode(ids[start:end])  # type: ignore[operator]
            text += f"{OPEN}{piece}{CLOSE}" if mask[start] else piece
            start = end
    return text


def _cut(cut: int, dropped: int, rows: int) -> str:
    return f"{cut} of {rows} cut at --max-length ({cut / rows:.1%}), {dropped} left out"


def _spread(lengths: list[int]) -> str:
    return f"{sum(lengths) / len(lengths):.0f} on average, {max(lengths)} at most"
