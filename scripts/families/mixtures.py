"""Mixtures of experts: gated, with shared experts, fine-grained, with sinks, chunks, latent and sparse attention."""

from __future__ import annotations

from scripts.families.family import ALTERNATING, WINDOW, Family, common

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_DEEPSEEK = _LATENT | {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
# With few heads the indexer's scores are often all 0, and which of those it picks depends on how many there are.
_SPARSE = {"index_topk": WINDOW, "index_head_dim": 16, "index_n_heads": 16}


def _llama4(name: str, chunk: int, *, scaled: bool) -> Family:
    """`scaled`: in layers without positions queries grow with the position."""
    sizes = common(
        num_hidden_layers=4, head_dim=8, intermediate_size=32, intermediate_size_mlp=64, num_local_experts=4,
        num_experts_per_tok=1, moe_layers=[1, 3], no_rope_layers=[1, 1, 1, 0], attention_chunk_size=chunk,
        attn_temperature_tuning=scaled, floor_scale=16,
    )  # fmt: skip
    return Family(name, "llama4_text", "llama4", f"chunks of {chunk} tokens, layers without positions, MoE", sizes)


FAMILIES = [
    Family("mixtral", "mixtral", "mistral", "gated MoE", common(num_local_experts=4, num_experts_per_tok=2)),
    Family("mixtral-aux", "mixtral", "mistral", "gated MoE whose configuration asks for the router's loss",
           common(num_local_experts=4, num_experts_per_tok=2, output_router_logits=True, router_aux_loss_coef=0.5)),
    Family("qwen2-moe", "qwen2_moe", "chatml", "MoE with a gated shared expert",
           common(**_EXPERTS, shared_expert_intermediate_size=32, decoder_sparse_step=1)),
    Family("qwen3-moe", "qwen3_moe", "qwen3", "MoE", common(**_EXPERTS, head_dim=8, decoder_sparse_step=1)),
    Family("phimoe", "phimoe", "phi3", "MoE with a sparse mixer; windows; jitter while it trains",
           common(num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW)),
    Family("olmoe", "olmoe", "zephyr", "MoE; normed queries and keys", common(num_experts=4, num_experts_per_tok=2)),
    Family("flex-olmo", "flex_olmo", "zephyr", "MoE; norms behind the blocks",
           common(num_experts=4, num_experts_per_tok=2)),
    Family("granitemoe", "granitemoe", "granite", "MoE with stacked experts and multipliers",
           common(num_local_experts=4, num_experts_per_tok=2, embedding_multiplier=6.0, logits_scaling=2.0)),
    Family("granitemoeshared", "granitemoeshared", "granite", "MoE with stacked and shared experts",
           common(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=32)),
    Family("jetmoe", "jetmoe", "llama2", "MoE in attention too",
           {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2,
            "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 512}),
    Family("dbrx", "dbrx", "chatml", "MoE, clipped queries, keys and values",
           {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 500000.0},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32}}),
    Family("deepseek-v2", "deepseek_v2", "deepseek", "MLA; MoE with shared experts",
           common(**_DEEPSEEK, num_hidden_layers=2, topk_method="greedy", head_dim=8)),
    Family("deepseek-v3", "deepseek_v3", "deepseek", "MLA; MoE with shared experts",
           common(**_DEEPSEEK)),
    Family("deepseek-v3.2", "deepseek_v32", "deepseek", "MLA over the tokens that an indexer picks",
           common(**_DEEPSEEK, **_SPARSE)),
    Family("glm-moe-dsa", "glm_moe_dsa", "glm", "MLA over the tokens that an indexer picks",
           common(**_DEEPSEEK, **_SPARSE)),
    Family("glm4-moe", "glm4_moe", "glm", "MoE with shared experts; RoPE on half of each head",
           common(head_dim=8, partial_rotary_factor=0.5, n_routed_experts=4, num_experts_per_tok=2,
                  n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=1, n_group=1, topk_group=1)),
    Family("dots1", "dots1", "chatml", "MoE with shared experts, dense first layer",
           common(n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32,
                  first_k_dense_replace=1, n_group=1, topk_group=1, head_dim=8)),
    Family("ernie4.5-moe", "ernie4_5_moe", "ernie", "MoE with shared experts, dense first layer",
           common(moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_intermediate_size=32,
                  moe_layer_start_index=1)),
    Family("hunyuan-moe", "hunyuan_v1_moe", "hunyuan", "MoE with a shared expert",
           common(num_experts=4, moe_topk=2, head_dim=8)),
    Family("gpt-oss", "gpt_oss", "harmony", "sinks, alternating windows; stacked experts",
           common(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW,
                  layer_types=ALTERNATING)),
    _llama4("llama4-chunk48", 48, scaled=False),
    _llama4("llama4-chunk16", 16, scaled=True),
    Family("minimax-m2", "minimax_m2", "chatml", "MoE with sigmoid gates",
           common(num_local_experts=4, num_experts_per_tok=2, head_dim=8, rotary_dim=4)),
    Family("afmoe", "afmoe", "chatml", "MoE, gated attention, alternating windows",
           common(num_experts=4, num_experts_per_tok=2, num_shared_experts=1, moe_intermediate_size=32,
                  num_dense_layers=1, head_dim=8, sliding_window=WINDOW, layer_types=ALTERNATING)),
    Family("longcat-flash", "longcat_flash", "chatml", "MLA twice a layer; experts that do nothing",
           common(num_layers=2, **_LATENT, ffn_hidden_size=64, expert_ffn_hidden_size=32, n_routed_experts=4,
                  zero_expert_num=2, moe_topk=2, head_dim=8)),
]  # fmt: skip
