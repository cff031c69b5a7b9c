"""Vision-language checkpoints, trained here on text alone."""

from __future__ import annotations

from scripts.families.family import ALTERNATING, WINDOW, Family, common

_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}

FAMILIES = [
    Family("gemma3-vlm", "gemma3", "gemma", "Gemma 3 with SigLIP",
           {"vision_config": _TOWER | {"image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4},
           common(head_dim=8, sliding_window=WINDOW, layer_types=ALTERNATING, query_pre_attn_scalar=8)),
    Family("gemma4-vlm", "gemma4", "gemma", "Gemma 4 with its tower of images",
           {"vision_config": _TOWER | {"head_dim": 8, "num_key_value_heads": 2}, "audio_config": None},
           common(head_dim=8, global_head_dim=8, sliding_window=WINDOW, layer_types=ALTERNATING,
                  hidden_size_per_layer_input=8, num_kv_shared_layers=0)),
    Family("qwen2-vl", "qwen2_vl", "qwen-vl", "positions in three parts",
           {"vision_config": {"embed_dim": 16, "hidden_size": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2}},
           common(rope_parameters=_MROPE)),
    Family("qwen2.5-vl", "qwen2_5_vl", "qwen-vl", "positions in three parts",
           {"vision_config": {"hidden_size": 16, "out_hidden_size": 32, "depth": 1, "num_heads": 2,
                              "intermediate_size": 32, "fullatt_block_indexes": [0]}},
           common(rope_parameters=_MROPE)),
    Family("qwen3-vl", "qwen3_vl", "qwen-vl", "interleaved positions; the tower joins several layers",
           {"vision_config": {"hidden_size": 16, "out_hidden_size": 32, "depth": 1, "num_heads": 2,
                              "intermediate_size": 32, "deepstack_visual_indexes": [0]}},
           common(head_dim=8, rope_parameters=_MROPE)),
    Family("mistral3", "mistral3", "tekken", "Mistral with Pixtral",
           {"vision_config": {"model_type": "pixtral", **_TOWER, "image_size": 28, "patch_size": 14}},
           common(model_type="mistral", head_dim=8, sliding_window=None)),
    Family("llava", "llava", "llama2", "Llama with CLIP",
           {"vision_config": {"model_type": "clip_vision_model", **_TOWER, "image_size": 28, "patch_size": 14}},
           common(model_type="llama")),
    Family("idefics3", "idefics3", "chatml", "Llama with SigLIP",
           {"vision_config": _TOWER | {"image_size": 28, "patch_size": 14}, "scale_factor": 1},
           common(model_type="llama")),
    Family("smolvlm", "smolvlm", "chatml", "Llama with SigLIP",
           {"vision_config": _TOWER | {"image_size": 28, "patch_size": 14}, "scale_factor": 1},
           common(model_type="llama")),
    Family("llama4-vlm", "llama4", "llama4", "Llama 4 with its tower of images",
           {"vision_config": _TOWER | {"image_size": 28, "patch_size": 14, "projector_input_dim": 16,
                                       "projector_output_dim": 16, "vision_output_dim": 16}},
           common(head_dim=8, intermediate_size=32, intermediate_size_mlp=64, num_local_experts=4,
                  num_experts_per_tok=1, no_rope_layers=[1, 0], attention_chunk_size=48)),
]  # fmt: skip
