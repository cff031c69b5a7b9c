"""Chat templates in the manner of each family, worded here: where its markers stand, and which roles it refuses."""

from __future__ import annotations

_ASKED = "{% if add_generation_prompt %}"
_NO_SYSTEM = (
    "{% if messages and messages[0].role == 'system' %}"
    "{{ raise_exception('This model takes no system message') }}{% endif %}"
)
_TURNS = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('User and assistant must take turns') }}{% endif %}{% endfor %}"
)


def chatml(thinks: bool = False) -> str:
    """`thinks`: the last answer has an empty block of thoughts before it, earlier ones have none."""
    body = "{{ m.content }}"
    if thinks:
        body = "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}" + body
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}" + body + "{{ '<|im_end|>\n' }}{% endfor %}"
        + _ASKED + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    )  # fmt: skip


def headed(opens: str, closes: str, end: str, gap: str = "\n\n") -> str:
    """The role between two markers, the text behind a gap, then an end."""
    return (
        "{{ bos_token if bos_token and bos_token != eos_token else '' }}"
        f"{{% for m in messages %}}{{{{ '{opens}' + m.role + '{closes}{gap}' + m.content + '{end}' }}}}{{% endfor %}}"
        f"{_ASKED}{{{{ '{opens}assistant{closes}{gap}' }}}}{{% endif %}}"
    )


def lines(mark: str, end: str, last: str = "") -> str:
    """A marker with the role in it on a line of its own, the text, an end. `last` closes a whole dialogue."""
    before, after = mark.split("{role}")
    return (
        f"{{% for m in messages %}}{{{{ '{before}' + m.role + '{after}\n' + m.content + '{end}\n' }}}}{{% endfor %}}"
        f"{_ASKED}{{{{ '{before}assistant{after}\n' }}}}{{% else %}}{{{{ '{last}' }}}}{{% endif %}}"
    )


INST = _NO_SYSTEM + _TURNS + (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)  # fmt: skip
TEKKEN = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = _NO_SYSTEM + _TURNS + (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}" + _ASKED + "{{ '<start_of_turn>model\n' }}{% endif %}"
)  # fmt: skip
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}{% endfor %}"
    + _ASKED + "{{ '<｜Assistant｜>' }}{% endif %}"
)  # fmt: skip
GLM = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    + _ASKED + "{{ '<|assistant|>\n' }}{% endif %}"
)  # fmt: skip
COHERE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}"
    "{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'}[m.role] }}"
    "{{ m.content | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    + _ASKED + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)  # fmt: skip
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    + _ASKED + "{{ '<|start|>assistant' }}{% endif %}"
)  # fmt: skip
HUNYUAN = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<｜hy_User｜>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<｜hy_Assistant｜>' + m.content + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}" + _ASKED + "{{ '<｜hy_Assistant｜>' }}{% endif %}"
)
ERNIE = (
    "{{ '<|begin_of_sentence|>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n' }}"
    "{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}"
    "{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}" + _ASKED + "{{ 'Assistant: ' }}{% endif %}"
)
NAMED = (
    "{% for m in messages %}{{ '\n\n' if not loop.first else '' }}"
    "{% if m.role == 'user' %}{{ 'User: ' }}{% elif m.role == 'assistant' %}{{ 'Assistant: ' }}{% endif %}"
    "{{ m.content | trim }}{% endfor %}" + _ASKED + "{{ '\n\nAssistant:' }}{% endif %}"
)
