"""Parameters counted from a configuration, against transformers' own models and the totals that hubs publish."""

from __future__ import annotations

import json

import pytest

from prefcli.config.sft import SFTConfig
from prefcli.errors import ArtifactError
from prefcli.memory.activations import cache_bytes
from prefcli.memory.architecture import causal_parameters, lora_parameters
from prefcli.memory.families import FAMILIES
from prefcli.memory.model_files import find_config, read_architecture
from prefcli.memory.run import Run
from prefcli.memory.shapes import KNOWN, typical
from prefcli.models.adapters import _adapted

# Odd sizes, so that no two dimensions can be taken for each other.
GATED = dict(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
PLAIN = {key: value for key, value in GATED.items() if key != "head_dim"}
GPT2 = dict(vocab_size=97, n_embd=24, n_layer=3, n_head=6, n_positions=31)
NEOX = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6)
CASES = [
    ("llama", GATED),
    ("llama", {**GATED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {**PLAIN, "num_key_value_heads": None}),
    ("mistral", GATED),
    ("qwen2", PLAIN),
    ("qwen2", {**PLAIN, "tie_word_embeddings": True}),
    ("qwen3", GATED),
    ("smollm3", PLAIN),
    ("gemma", GATED),
    ("gemma2", GATED),
    ("gemma3_text", GATED),
    ("phi3", PLAIN),
    ("olmo2", PLAIN),
    *((family, PLAIN) for family in ("mistral", "qwen3", "gemma", "gemma2", "gemma3_text")),
    ("gpt2", GPT2),
    ("gpt2", {**GPT2, "n_inner": 50, "tie_word_embeddings": False}),
    ("gpt_neox", NEOX),
    ("gpt_neox", {**NEOX, "attention_bias": False, "tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("family", "values"), CASES)
def test_count_equals_the_model_that_transformers_builds(family, values, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, **values)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        causal = transformers.AutoModelForCausalLM.from_config(config)
    causal.tie_weights()
    architecture = read_architecture(tmp_path / "config.json")
    assert architecture.parameters == causal.num_parameters()
    # A file with the given keys alone: what is left out must mean what it means to transformers.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **values}))
    assert read_architecture(tmp_path / "config.json").parameters == causal.num_parameters()
    if family == "olmo2" and type(config) not in transformers.AutoModelForSequenceClassification._model_mapping:
        return  # there is no classifier to compare with in every version
    config.num_labels = 1
    with torch.device("meta"):
        scorer = transformers.AutoModelForSequenceClassification.from_config(config)
    assert architecture.scorer_parameters == scorer.num_parameters()


MIXTURE = {**PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2}
SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
VISION = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
# (family, values, the width that a token goes through)
BUILT = [
    ("mixtral", MIXTURE, 80),
    ("qwen3_moe", {**GATED, **SMALL_EXPERTS}, 24),
    ("qwen2_moe", {**PLAIN, **SMALL_EXPERTS, "shared_expert_intermediate_size": 20}, 44),
    ("cohere2", PLAIN, 40),
    ("mamba", {key: PLAIN[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}, 48),
    ("gemma3", {"text_config": GATED, "vision_config": VISION}, 40),
]


@pytest.mark.parametrize(("family", "values", "width"), BUILT, ids=[family for family, *_ in BUILT])
def test_any_other_family_is_built_without_weights_and_counted(family, values, width, tmp_path):
    """Held against the weights that are there, and the adapter that is put on them."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, **values)
    config.save_pretrained(tmp_path)
    auto = transformers.AutoModelForImageTextToText if family == "gemma3" else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    found = read_architecture(tmp_path / "config.json")
    assert found.parameters == sum(p.numel() for p in {p.data_ptr(): p for p in model.parameters()}.values())
    heads = 1 if family == "mamba" else 6
    assert (found.layers, found.hidden, found.heads, found.vocab, found.ffn) == (3, 24, heads, 97, width)
    adapted = _adapted(model, SFTConfig(lora_rank=4), scorer=False)
    assert lora_parameters(found, 4) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_a_latent_attention_caches_what_its_model_does(tmp_path):
    """DeepSeek-V3's cache holds the latent of a token, and the rotated part of its key, which the heads share."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    latent = {"kv_lora_rank": 5, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 7, "q_lora_rank": None}
    sizes = PLAIN | {"num_key_value_heads": 6, "first_k_dense_replace": 3}
    config = transformers.AutoConfig.for_model("deepseek_v3", **sizes, **latent)
    config.save_pretrained(tmp_path)
    cache = transformers.AutoModelForCausalLM.from_config(config)(torch.ones(1, 8, dtype=torch.long)).past_key_values
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    found = read_architecture(tmp_path / "config.json")
    run = Run("ppo", found, dtype="float32", batch_size=1, max_length=8)
    assert cache_bytes(run) == held == 8 * 3 * (5 + 4) * 4
    assert found.query_width == 6 * (6 + 4)


def test_every_known_family_is_held_against_transformers():
    assert {family for family, _ in CASES} == set(FAMILIES)


# The totals that the hub shows for each repository's safetensors.
PUBLISHED = {
    "openai-community/gpt2": 124_439_808,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
}


def test_known_shapes_count_to_their_published_totals():
    assert {known.name: causal_parameters(known) for known in KNOWN} == PUBLISHED


def test_typical_shape_keeps_the_stated_count_and_a_near_models_dimensions():
    seven = typical(7_000_000_000)
    assert seven.parameters == seven.scorer_parameters == 7_000_000_000
    assert (seven.layers, seven.hidden, seven.heads, seven.ffn, seven.vocab) == (32, 4096, 32, 11008, 32000)


@pytest.mark.parametrize("parameters", [10**6, 50 * 10**6, 2 * 10**9, 20 * 10**9, 200 * 10**9, 10**12])
def test_typical_shape_counts_to_about_the_stated_size(parameters):
    shape = typical(parameters)
    assert shape.hidden == shape.heads * shape.head_dim
    assert 0.5 < causal_parameters(shape) / parameters < 1.5


def test_typical_shapes_of_the_smallest_sizes_are_still_models():
    shape = typical(1000)
    assert min(shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.ffn, shape.vocab) >= 1


LLAMA = {"model_type": "llama", **GATED}


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_a_model_is_found_as_file_directory_and_artifact(tmp_path):
    plain = write(tmp_path / "plain" / "config.json", LLAMA)
    inside = write(tmp_path / "artifact" / "model" / "config.json", LLAMA)
    write(tmp_path / "artifact" / "manifest.json", {})
    assert find_config(plain) == find_config(tmp_path / "plain") == plain
    assert find_config(tmp_path / "artifact") == inside
    assert find_config(tmp_path / "nothing") is None


def test_an_adapter_leads_to_its_base_on_disk(tmp_path):
    base = write(tmp_path / "base" / "config.json", LLAMA)
    write(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "base")})
    assert find_config(tmp_path / "adapter") == base
    write(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": "some/hub-model"})
    with pytest.raises(ArtifactError, match="some/hub-model"):
        find_config(tmp_path / "adapter")


def test_a_directory_without_a_model_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="not a model"):
        find_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "one JSON object"),
        ("[" * 100_000, "JSON|nested"),
        ({}, "no model_type"),
        ({"model_type": ["llama"]}, "no model_type"),
        ({"model_type": "no-such-family"}, "no-such-family"),
        ({"model_type": "mixtral", "num_attention_heads": 5, "hidden_size": "x"}, "cannot be counted"),
        ({"model_type": "t5"}, "cannot be counted"),
        ({**LLAMA, "hidden_size": None}, "hidden_size or n_embd is missing"),
        ({**LLAMA, "hidden_size": "24"}, "positive whole number"),
        ({**LLAMA, "num_hidden_layers": 0}, "positive whole number"),
        ({**LLAMA, "num_hidden_layers": True}, "positive whole number"),
        ({**LLAMA, "vocab_size": 97.5}, "positive whole number"),
        ({**LLAMA, "tie_word_embeddings": "yes"}, "true or false"),
    ],
)
def test_bad_configurations_are_artifact_errors_that_name_the_file(values, said, tmp_path):
    config = write(tmp_path / "config.json", values)
    with pytest.raises(ArtifactError, match=said) as raised:
        read_architecture(config)
    assert str(config) in raised.value.message


def test_bytes_that_are_no_text_are_an_artifact_error(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_architecture(tmp_path / "config.json")
