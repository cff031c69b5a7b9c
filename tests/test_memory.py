"""The memory model against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefcli.config.stages import BY_COMMAND
from prefcli.memory import activations
from prefcli.memory.architecture import Architecture, lora_parameters
from prefcli.memory.estimate import PARTS, WORKSPACES, estimate
from prefcli.memory.fit import SAVINGS, _all, at_pace, changes, fits, gpus_needed, largest, split
from prefcli.memory.gpus import find_gpu
from prefcli.memory.methods import as_dict, two_routes
from prefcli.memory.run import Run
from prefcli.memory.shapes import typical
from prefcli.memory.states import trained_parameters

GB = 10**9
SEVEN = typical(7 * GB)
A100 = find_gpu("A100-80GB")

# Small enough to count on paper: h 8, q 8, kv 4, f 20, V 100, 3 layers, gated.
SMALL = Architecture(
    "small", "llama", layers=3, hidden=8, heads=4, kv_heads=2, head_dim=2, ffn=20, vocab=100, tied=True
)


def routes(architecture=SEVEN, batch_size=1, max_length=2048, checkpointing=True):
    """PPO against DPO, as mem-estimate asks."""
    return two_routes(architecture, A100, batch_size, max_length, checkpointing, adapter=None)


def test_seven_billion_is_four_models_and_28b_against_two_and_14b():
    ppo, dpo = routes().both
    assert (ppo.models, ppo.parameters) == (4, 28 * GB)
    assert (dpo.models, dpo.parameters) == (2, 14 * GB)
    assert routes().saving == 0.5


def test_seven_billion_model_states_are_252_against_126_gigabytes():
    ppo, dpo = routes().both
    assert ppo.estimate.state_bytes == 2 * 7 * GB * 16 + 2 * 7 * GB * 2 == 252 * GB
    assert dpo.estimate.state_bytes == 7 * GB * 16 + 7 * GB * 2 == 126 * GB


def test_seven_billion_takes_two_a100_for_dpo_and_four_for_ppo():
    """By hand: states of 126 and 252 GB over GPUs of which 77 GB are usable; in the rollout 14 GB are gathered."""
    ppo, dpo = routes().both
    assert (ppo.gpus, dpo.gpus) == (4, 2)
    assert ppo.split.command.startswith("torchrun --nproc-per-node 4 -m prefcli ppo") and dpo.split.run.shards == 2
    assert " --shard" in ppo.split.command and " --batch-size 4" in ppo.split.command  # more GPUs than rows


@pytest.mark.parametrize("size", ["125e6", "1.5e9", "13e9", "70e9", "405e9"])
def test_saving_is_half_at_every_size(size):
    assert routes(typical(int(float(size)))).saving == 0.5


def test_a_trained_parameter_takes_sixteen_bytes_by_part_and_a_frozen_one_two():
    roles = estimate(Run("ppo", SEVEN)).roles
    for name in ("policy", "value"):
        assert [roles[name].parts[part] / (7 * GB) for part in ("weights", "gradients", "optimizer")] == [2, 2, 12]
    for name in ("reward", "reference"):
        assert {part: size for part, size in roles[name].parts.items() if size} == {"weights": 14 * GB}


def test_fp32_on_a_cpu_is_four_of_weights_four_of_gradients_eight_of_adam():
    policy = estimate(Run("sft", SEVEN, dtype="float32")).roles["policy"]
    assert [policy.parts[part] / (7 * GB) for part in ("weights", "gradients", "optimizer")] == [4, 4, 8]
    # fp32 weights are their own master copy: the switch must not add one
    assert estimate(Run("sft", SEVEN, dtype="float32", master_weights=False)).bytes == policy.bytes


def test_bf16_without_master_weights_keeps_its_moments_in_bf16():
    policy = estimate(Run("sft", SEVEN, master_weights=False)).roles["policy"]
    assert [policy.parts[part] / (7 * GB) for part in ("weights", "gradients", "optimizer")] == [2, 2, 4]


@pytest.mark.parametrize(("optimizer", "numbers"), [("adamw", 2.0), ("adafactor", 2 / 4096), ("sgd", 0.0)])
def test_optimizer_state_beside_fp32_weights(optimizer, numbers):
    policy = estimate(Run("sft", SEVEN, dtype="float32", optimizer=optimizer)).roles["policy"]
    assert policy.parts["optimizer"] == pytest.approx(4 * numbers * 7 * GB, rel=1e-6)


@pytest.mark.parametrize(("stage", "rank", "numbers"), [("sft", 0, 120 * 8), ("ppo", 0, 0), ("sft", 2, 0)])
def test_moments_in_8_bits_are_whole_for_embeddings_that_transformers_trainer_sees(stage, rank, numbers):
    """By hand: 100 tokens and 20 positions of 8 numbers, two moments in fp32; else a byte, and 4 bytes a 256."""
    a = replace(SMALL, positions=20, vocab=100)
    run = Run(stage, a, dtype="float32", optimizer="adamw-8bit", lora_rank=rank)
    trained = trained_parameters(run, run.roles[0])
    policy = estimate(run).roles["policy"].parts["optimizer"]
    assert policy == 2 * (trained - numbers) * 65 // 64 + 8 * numbers


def test_ddp_holds_buckets_as_large_as_the_gradients():
    run = Run("ppo", SMALL, autocast=True)
    alone, among = estimate(run), estimate(replace(run, buckets=True))
    assert among.bytes - alone.bytes == 4 * (SMALL.parameters + SMALL.scorer_parameters)
    assert among.phases["rollout"] - alone.phases["rollout"] == among.bytes - alone.bytes


@pytest.mark.parametrize("stage", sorted(BY_COMMAND))
def test_every_byte_stands_in_one_part_of_one_role(stage):
    found = estimate(Run(stage, SEVEN))
    assert set(found.roles) == {role.name for role in BY_COMMAND[stage].roles}
    assert all(tuple(role.parts) == PARTS for role in found.roles.values())
    assert found.bytes == sum(found.parts.values()) == sum(sum(role.parts.values()) for role in found.roles.values())


def test_logits_exist_one_chunk_at_a_time():
    run = Run("sft", SMALL, max_length=50, logit_chunk=16)
    softmax = 3 * 4 * 16 * 100
    assert activations.logit_bytes(run, 50) == 16 * 100 * (2 + 4) + softmax
    assert activations.logit_gradient_bytes(run, 50) == 16 * 100 * (4 + 4) + softmax
    assert activations.logit_bytes(run, 10) == 10 * 100 * (2 + 4 + 12)
    assert activations.logit_rows(replace(run, logit_chunk=None), 10**9) == 2**28 // (4 * 100)  # models/logps.py


def test_passes_are_what_the_trainer_cuts_a_batch_into():
    """Against models/rows.py's own first fit."""
    rows = pytest.importorskip("prefcli.models.rows")
    for prompt, answer, batch, cap in ((60, 40, 7, 300), (10, 90, 8, 50), (30, 10, 9, 120)):
        run = Run("dpo", SMALL, batch_size=batch, max_length=prompt + answer, shared_prompt=prompt, tokens_per_row=cap)
        cost = prompt + 2 * answer
        cut = rows.parts([cost] * batch, cap)
        assert (run.row_tokens, run.rows_of_pass) == (cost, max(map(len, cut)))
        assert run.tokens == cost * len(cut[0]) and run.read == 2 * answer * len(cut[0])


def test_gradients_are_not_there_before_the_first_backward_pass():
    """Of a batch in one pass; and where there are several, the widest may meet none."""
    wide = Run("sft", SMALL, dtype="float32", batch_size=64, max_length=64, checkpointing=False, device="cpu")
    assert estimate(wide).parts["gradients"] == 0
    two = replace(wide, tokens_per_row=32 * 64)
    assert estimate(two).parts["gradients"] == 4 * SMALL.parameters
    assert estimate(replace(wide, grad_accum=2)).bytes == estimate(wide).bytes + 4 * SMALL.parameters
    uneven = replace(wide, tokens_per_row=63 * 64)  # 63 rows, then one beside the gradients
    assert estimate(two).bytes < estimate(uneven).bytes < estimate(wide).bytes


def test_autocast_holds_fp32_weights_and_copies_of_them_for_a_pass():
    run = Run("sft", SMALL, autocast=True, batch_size=64, max_length=64, checkpointing=False)
    parts = estimate(run).parts
    assert parts["weights"] == 4 * SMALL.parameters and parts["optimizer"] == 8 * SMALL.parameters
    assert parts["temporary"] >= 2 * SMALL.parameters + WORKSPACES
    frozen = estimate(replace(run, stage="dpo")).roles["reference"]
    assert frozen.parts["weights"] == 2 * SMALL.parameters


def test_zero_splits_what_its_stage_says():
    whole = estimate(Run("sft", SEVEN))
    for stage, parts in (
        (1, {"optimizer"}),
        (2, {"optimizer", "gradients"}),
        (3, {"optimizer", "gradients", "weights"}),
    ):
        split = estimate(Run("sft", SEVEN, zero=stage, shards=8))
        for part in ("weights", "gradients", "optimizer"):
            assert whole.parts[part] == split.parts[part] * (8 if part in parts else 1)


def test_a_pair_is_two_answers_and_a_packed_prompt_counts_once():
    assert Run("sft", SMALL, batch_size=3, max_length=100).tokens == 300
    assert Run("dpo", SMALL, batch_size=3, max_length=100).tokens == 600
    assert Run("train-rm", SMALL, batch_size=3, max_length=100, shared_prompt=60).tokens == 3 * (60 + 40 + 40)


def test_ppo_peaks_in_its_largest_phase_not_in_their_sum():
    run = Run("ppo", SMALL, dtype="float32", batch_size=64, max_length=64, checkpointing=False)
    found = estimate(run)
    assert found.phase == "policy update"
    assert found.bytes == max(found.phases.values()) < sum(found.phases.values())
    assert found.roles["value"].parts["activations"] == 0 < found.roles["policy"].parts["activations"]
    # A cache wider than a layer's activations moves the peak to the rollout.
    deep = replace(SMALL, layers=500, kv_heads=40)
    rollout = estimate(replace(run, architecture=deep, checkpointing=True))
    assert rollout.phase == "rollout"
    assert rollout.roles["policy"].parts["activations"] > 64 * 64 * 2 * 500 * 80 * 4


def test_value_and_reward_carry_a_score_in_place_of_the_vocabulary():
    untied = replace(SMALL, tied=False)
    roles = estimate(Run("ppo", untied)).roles
    assert roles["policy"].parameters - roles["value"].parameters == 100 * 8 - 8
    assert roles["policy"].parameters == roles["reference"].parameters == untied.parameters


def test_lora_trains_the_adapter_alone():
    # q, o: 8→8; k, v: 8→4; gate, up: 8→20; down: 20→8
    adapter = 3 * 5 * (2 * 16 + 2 * 12 + 3 * 28)
    assert lora_parameters(SMALL, 5) == adapter
    run = Run("sft", SMALL, lora_rank=5, grad_accum=2)
    policy = estimate(run).roles["policy"]
    assert policy.parts["weights"] == 2 * (SMALL.parameters + adapter)
    assert (policy.parts["gradients"], policy.parts["optimizer"]) == (2 * adapter, 12 * adapter)
    policy = estimate(replace(run, autocast=True)).roles["policy"]  # the adapter in fp32 on a base in 16 bits
    assert policy.parts["weights"] == 2 * SMALL.parameters + 4 * adapter


def test_a_base_in_4_bits_has_small_linear_layers_and_whole_embeddings():
    adapter, score = lora_parameters(SMALL, 5), 8
    linear = 3 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 20)  # of three layers: q, o; k, v; gate, up, down
    base = 2 * (SMALL.parameters - linear) + round(linear * 0.515875)
    roles = estimate(Run("ppo", SMALL, lora_rank=5, in_4bit=True)).roles
    weights = {name: role.parts["weights"] for name, role in roles.items()}
    assert weights["policy"] == weights["reference"] == base + 2 * adapter
    assert weights["value"] == base + 2 * (adapter + score) and weights["reward"] > 2 * SMALL.parameters


def test_a_shared_base_is_held_once():
    adapter, score = lora_parameters(SMALL, 5), 8
    found = estimate(Run("ppo", SMALL, lora_rank=5, shared_base=True))
    weights = {name: role.parts["weights"] // 2 for name, role in found.roles.items()}
    assert weights == {
        "policy": SMALL.parameters + adapter,
        "value": adapter + score,
        "reward": adapter + score,
        "reference": adapter,
    }
    with pytest.raises(ValueError, match="lora_rank"):
        Run("ppo", SMALL, shared_base=True)


def test_smaller_passes_are_told_as_the_parts_of_the_whole_batch():
    run = Run("ppo", SMALL, packed=False, batch_size=32, grad_accum=2)
    padded = SAVINGS[0]
    assert padded.option(run) == "--grad-accum 64" and padded.option(replace(run, answers=4)) == "--grad-accum 16"
    after = padded.apply(run)
    assert (after.batch_size, after.grad_accum) == (1, 64) and padded.apply(after) is None


def test_a_rollout_stays_whole_where_its_updates_run_in_parts():
    run = Run("ppo", SMALL, packed=False, batch_size=32)
    after = SAVINGS[0].apply(run)
    assert (after.batch_size, activations.rollout_answers(after)) == (1, 32)
    assert estimate(after).phases["rollout"] == estimate(run).phases["rollout"]


def test_what_is_proposed_is_taken_by_the_stage():
    """kto takes no part of one row, rloo only whole prompts of answers."""
    kto = Run("kto", SMALL, packed=False, batch_size=10)
    assert (SAVINGS[0].option(kto), SAVINGS[0].apply(kto).batch_size) == ("--grad-accum 5", 2)
    assert SAVINGS[0].apply(replace(kto, batch_size=3)) is None
    assert split(kto, 8).batch_size == 2 and largest(kto, 0, "batch_size") == 0
    rloo = next(saving for saving in SAVINGS if "value model" in saving.costs)
    assert rloo.apply(Run("ppo", SMALL, batch_size=6)) is None
    assert rloo.apply(Run("ppo", SMALL, batch_size=6, answers=3)).answers == 3
    assert rloo.apply(Run("ppo", SMALL, batch_size=8)).answers == 4


def test_gpus_are_the_fewest_that_hold_the_run_as_shard_splits_it():
    dpo, usable = routes(typical(13 * GB)).dpo.run, A100.usable_bytes
    for run in (dpo, replace(dpo, stage="kto"), replace(dpo, stage="ppo"), replace(dpo, architecture=typical(70 * GB))):
        found = gpus_needed(run, usable)
        assert found and changes(split(run, found), usable, same=True) is not None
        assert changes(split(run, found - 1), usable, same=True) is None
        eight = gpus_needed(
            replace(run, batch_size=8), usable
        )  # its rows are divided evenly, or there are more of them
        assert eight >= found and (8 % eight == 0 or eight % 8 == 0)
        assert found >= estimate(run).state_bytes / usable
    assert gpus_needed(replace(dpo, lora_rank=8, shared_base=True, in_4bit=True, architecture=typical(400 * GB)),
                       usable) is None  # fmt: skip
    assert gpus_needed(replace(dpo, architecture=typical(10_000 * GB)), usable) is None
    assert gpus_needed(replace(dpo, architecture=typical(10_000 * GB), batch_size=8192), usable) is None
    assert gpus_needed(replace(dpo, architecture=typical(GB)), usable) == 1
    parts = split(Run("ppo", SMALL, batch_size=100, rollout=200, answers=4), 8)
    assert (parts.batch_size, parts.rollout, parts.shards) == (16, 28, 8)  # four answers to a prompt stay together


def test_what_shard_refuses_is_neither_counted_nor_proposed():
    """adafactor, adamw-8bit and float16 end in exit 2 there, and a base in 4 bits is whole in each process first."""
    large = Run("dpo", typical(70 * GB), autocast=True, batch_size=16)
    assert gpus_needed(large, A100.usable_bytes)
    for more in ({"optimizer": "adafactor"}, {"optimizer": "adamw-8bit"}, {"dtype": "float16"}):
        assert gpus_needed(replace(large, **more), A100.usable_bytes) is None
        assert gpus_needed(replace(large, architecture=typical(GB), **more), A100.usable_bytes) == 1
    seen = set()
    for usable in range(4, 130, 3):
        seen |= {change.option for change in changes(split(replace(large, architecture=SEVEN), 2), usable * GB) or []}
    assert "--lora-rank 16" in seen and not seen & {"--optim adamw-8bit", "--optim adafactor", "--load-in-4bit"}


def test_of_models_that_are_split_a_process_holds_its_part_and_what_it_gathers():
    """By hand: 12 layers of 124,160 weights, embeddings of 20,000 × 80, a norm; all in float32, of one answer."""
    a = Architecture("by hand", "llama", 12, 80, 4, 4, 20, 410, 20_000, tied=True)
    layer, root = 4 * 80 * 80 + 3 * 80 * 410 + 2 * 80, 20_000 * 80 + 80
    assert a.parameters == 12 * layer + root
    run = Run(
        "sft", a, dtype="float32", batch_size=4, max_length=2, checkpointing=False, zero=3, shards=4, device="cpu"
    )
    small = estimate(run)
    states = 16 * a.parameters // 4
    # The embeddings' gradient comes when all layers' are added up: of the head, of the embeddings, and their sum.
    by_hand = states - 4 * root // 4 + 4 * root + 3 * 4 * 20_000 * 80 + 4 * layer
    assert small.phase == "policy update" and small.bytes == pytest.approx(by_hand, rel=1e-3)
    assert estimate(replace(run, shards=8)).bytes - by_hand == pytest.approx(
        -(16 * a.parameters - 4 * root) / 8, rel=0.01
    )
    ppo = estimate(replace(run, stage="ppo", shared_prompt=1))
    whole = 4 * (2 * root + 12 * layer)  # the policy's weights, and the reference's embeddings
    in_lockstep = estimate(replace(ppo.run, lockstep=True))  # a layer of them, and the buffer of its gather
    assert ppo.phases["rollout"] - in_lockstep.phases["rollout"] == 4 * 10 * layer
    assert ppo.phases["policy update"] == in_lockstep.phases["policy update"]
    room = max(ppo.phases["rollout"], ppo.phases["scoring"])
    assert not at_pace(ppo.run, room).lockstep and at_pace(ppo.run, room - 1).lockstep
    assert at_pace(run, 0) == run and fits(ppo.run, ppo.bytes)
    assert ppo.phases["rollout"] >= whole + (16 * 2 + 4 * 2) * a.parameters // 4 - 4 * 2 * a.parameters // 4
    frozen = estimate(replace(run, lora_rank=4)).roles["policy"]
    assert frozen.parts["gradients"] < frozen.parts["weights"] / 10


def test_what_is_asked_for_reaches_the_estimate():
    def passing(**options):
        found = routes(**options).dpo.estimate
        return found.bytes - found.state_bytes

    plain = passing()
    assert passing(batch_size=3) > 1.5 * plain < passing(max_length=8192)
    assert passing(checkpointing=False) > 5 * plain


def test_dict_has_the_promised_shape():
    found = as_dict(routes())
    assert set(found) == {"methods", "saving", "assumptions"}
    assert list(found["methods"]) == ["ppo", "dpo"]
    for method in found["methods"].values():
        assert set(method) == {"models", "params_equivalent", "bytes", "roles", "gpus"}
        assert method["models"] == len(method["roles"])
        assert method["bytes"] == sum(role["bytes"] for role in method["roles"].values())
        for role in method["roles"].values():
            assert set(role) == {"trained", "params", "bytes", "parts"}
            assert role["bytes"] == sum(role["parts"].values())
    trained = {name: role["trained"] for name, role in found["methods"]["ppo"]["roles"].items()}
    assert trained == {"policy": True, "value": True, "reward": False, "reference": False}


def test_what_does_not_fit_is_made_to_by_the_cheapest_options_and_no_other():
    run = Run("dpo", SEVEN, autocast=True, batch_size=4, max_length=1024, checkpointing=False)
    for usable in (100 * GB, 60 * GB, 20 * GB, 8 * GB):
        found = changes(run, usable)
        assert found and found[-1].bytes <= usable
        costs = [next(i for i, saving in enumerate(SAVINGS) if saving.costs == change.costs) for change in found]
        assert costs == sorted(costs)
    assert changes(run, 10**15) == []
    assert changes(run, 10**9) is None


def test_the_largest_that_fits_fits_and_one_more_does_not():
    run = Run("sft", SEVEN, autocast=True, lora_rank=16, max_length=1024)
    usable = 40 * GB
    for what in ("batch_size", "max_length"):
        most = largest(run, usable, what)
        assert (
            most and fits(replace(run, **{what: most}), usable) and not fits(replace(run, **{what: most + 1}), usable)
        )
    assert largest(run, GB, "batch_size") == 0
    assert largest(replace(run, tokens_per_row=4096), usable, "batch_size") is None  # it runs in rows of so many


def test_ktos_reference_reads_every_prompt_with_two_answers_as_dpos_does():
    common = {"architecture": SMALL, "batch_size": 8, "max_length": 64, "dtype": "float32"}
    kto, dpo = (estimate(Run(stage=stage, **common)).phases["reference"] for stage in ("kto", "dpo"))
    assert kto == dpo


def test_of_the_changes_that_are_named_none_could_be_left_out():
    """Whatever the memory: without any one of them the run does not fit."""
    numbers = {saving.costs: i for i, saving in enumerate(SAVINGS)}
    seen = set()
    for stage in ("dpo", "ppo", "sft"):
        run = Run(stage, SEVEN, autocast=True, batch_size=8, max_length=2048, device="cuda")
        whole = estimate(run).bytes
        for share in range(5, 100, 2):
            found = changes(run, whole * share / 100)
            kept = [numbers[change.costs] for change in found or []]
            for number in kept:
                without = [one for one in kept if one != number]
                after = _all(run, without)[-1][1] if without else run
                assert not fits(after, whole * share / 100), (stage, share, kept, number)
            seen.add(tuple(kept))
    assert len(seen) >= 5


@pytest.mark.parametrize(
    ("stage", "apart"), [("dpo", {"own_base": frozenset({"reference"})}), ("ppo", {"separate": True})]
)
def test_a_model_that_stays_apart_is_not_promised_to_share_the_adapters_base(stage, apart):
    run = Run(stage, SEVEN, autocast=True, batch_size=4, **apart)
    (adapter,) = (saving for saving in SAVINGS if saving.option(run) == "--lora-rank 16")
    assert not adapter.apply(run).shared_base
    assert adapter.apply(replace(run, own_base=frozenset(), separate=False)).shared_base


def test_a_rollout_in_parts_holds_the_cache_of_a_part():
    whole = Run("ppo", SEVEN, autocast=True, lora_rank=16, shared_base=True, batch_size=64, max_length=565,
                shared_prompt=512, tokens_per_row=1024)  # fmt: skip
    parts = replace(whole, sampled=8)
    assert activations.cache_bytes(whole) == 8 * activations.cache_bytes(parts)
    assert estimate(whole).phases["rollout"] > 1.5 * estimate(parts).phases["rollout"]
    assert {name: size for name, size in estimate(whole).phases.items() if name != "rollout"} == {
        name: size for name, size in estimate(parts).phases.items() if name != "rollout"
    }
    assert estimate(replace(whole, sampled=100)).bytes == estimate(whole).bytes


def test_what_saves_nothing_at_first_is_tried_again_where_another_phase_has_the_peak():
    """The rollout's cache matters once adapters have taken the updates' memory away."""
    run = Run("ppo", SEVEN, autocast=True, batch_size=64, max_length=565, shared_prompt=512, tokens_per_row=16384,
              checkpointing=False)  # fmt: skip
    found = changes(run, 21.6 * GB)
    assert found and "--generation-batch 8" in [change.option for change in found]
    assert changes(run, 21.6 * GB, same=True) is None
    adapters = replace(run, lora_rank=16, shared_base=True)
    assert {change.option.split()[0] for change in changes(adapters, 21.6 * GB, same=True)} == {
        "--tokens-per-row", "--generation-batch"
    }  # fmt: skip
