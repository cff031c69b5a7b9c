"""The losses on pairs and on labels: against plain arithmetic, and against TRL's own trainers on the same batch."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny_models import letters, tiny_lm
from trl import DPOConfig as TRLDPOConfig
from trl import KTOConfig as TRLKTOConfig
from trl import KTOTrainer

from prefcli.config.dpo import LOSSES, DPOConfig
from prefcli.config.kto import KTOConfig
from prefcli.errors import UsageError
from prefcli.losses import PAIR_LOSSES, Terms, kto, reference_point
from prefcli.models.packed import pack
from prefcli.progress import SILENT, Reporter
from prefcli.stages.dpo import DPOSteps, PairTrainer, not_in_trl, trl_options
from prefcli.stages.kto import KTOSteps
from prefcli.stages.reference import ReferenceLogps, reference_at_work

CHOSEN, REJECTED = [0.7, -1.5, 3.0, -8.0, 0.0], [-0.2, 0.9, 2.5, 1.0, 0.0]


def sig(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "sigmoid": lambda c, r, b, e: -(1 - e) * math.log(sig(b * (c - r))) - e * math.log(sig(b * (r - c))),
    "robust": lambda c, r, b, e: (-(1 - e) * math.log(sig(b * (c - r))) + e * math.log(sig(b * (r - c)))) / (1 - 2 * e),
    "hinge": lambda c, r, b, e: max(0.0, 1 - b * (c - r)),
    "ipo": lambda c, r, b, e: (c - r - 1 / (2 * b)) ** 2,
    "simpo": lambda c, r, b, e: -math.log(sig(b * (c - r) - 1.25)),
    "apo-zero": lambda c, r, b, e: 1 - sig(b * c) + sig(b * r),
    "apo-down": lambda c, r, b, e: sig(b * c) + 1 - sig(b * (c - r)),
}


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_a_loss_is_its_formula_and_its_gradient_the_slope(loss):
    beta, smoothing = 0.3, 0.2 if loss in ("sigmoid", "robust") else 0.0
    chosen, rejected = (torch.tensor(x, dtype=torch.double, requires_grad=True) for x in (CHOSEN, REJECTED))
    own = {"label_smoothing": smoothing, "simpo_gamma": 1.25}
    taken = {name: own[name] for name in LOSSES[loss].parameters}
    found = PAIR_LOSSES[loss](Terms(chosen, rejected, beta), **taken)
    expected = [FORMULAS[loss](c, r, beta, smoothing) for c, r in zip(CHOSEN, REJECTED)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    found.sum().backward()
    h = 1e-6
    for i, (c, r) in enumerate(zip(CHOSEN, REJECTED)):
        slope = FORMULAS[loss](c + h, r, beta, smoothing) - FORMULAS[loss](c - h, r, beta, smoothing)
        assert chosen.grad[i].item() == pytest.approx(slope / 2 / h, abs=1e-6)


def test_robust_is_in_expectation_over_flipped_labels_the_loss_on_the_clean_ones():
    c, r, e = torch.tensor(CHOSEN), torch.tensor(REJECTED), 0.2
    noisy = (1 - e) * PAIR_LOSSES["robust"](Terms(c, r, 0.3), e) + e * PAIR_LOSSES["robust"](Terms(r, c, 0.3), e)
    torch.testing.assert_close(noisy, PAIR_LOSSES["sigmoid"](Terms(c, r, 0.3)))


PAIRS = [
    {"prompt_ids": [0, 1], "chosen_ids": [1, 0, 1, 2], "rejected_ids": [0, 2]},
    {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [1, 1, 0, 0, 2]},
    {"prompt_ids": [0, 0, 1], "chosen_ids": [0, 1, 2], "rejected_ids": [1, 0, 2]},
]
ANSWERS = [
    {"prompt_ids": p["prompt_ids"], "completion_ids": p[side], "label": side == "chosen_ids"}
    for p in PAIRS for side in ("chosen_ids", "rejected_ids")
]  # fmt: skip
MODELS = {"vocab": 4, "layers": 1}


def arguments(kind, tmp_path, rows, **more):
    return kind(
        output_dir=str(tmp_path), per_device_train_batch_size=rows, max_length=None, use_cpu=True, bf16=False,
        report_to="none", gradient_checkpointing=False, remove_unused_columns=False, **more,
    )  # fmt: skip


def gradients(trainer, *batches):
    """(loss, gradients) of one step, in so many parts."""
    trainer.current_gradient_accumulation_steps = len(batches)
    parts, units = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    loss = sum(trainer.training_step(trainer.model, part, units) for part in parts)
    return float(loss), [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]


def our_dpo(tmp_path, config, policy, reference, pairs=PAIRS, share=1.0, tokens_per_row=12):
    rows = [{**pair, "row": i} for i, pair in enumerate(pairs)]
    logps = ReferenceLogps(len(rows), None)
    trainer = DPOSteps(
        model=policy, processing_class=letters(), tokens_per_row=tokens_per_row, config=config, share=share,
        args=arguments(TRLDPOConfig, tmp_path, len(rows), precompute_ref_log_probs=True, beta=config.beta),
        train_dataset=Dataset.from_list(rows), references=[] if config.reference_free else [logps],
    )  # fmt: skip
    logps.model, logps.run = reference, lambda: reference_at_work(reference, trainer.accelerator)
    return gradients(trainer, {"examples": rows}), trainer


CASES = ["sigmoid", "sigmoid -l", "ipo -l", "hinge", "robust", "apo-zero", "apo-down"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_of_dpo_are_those_of_trl(case, packed, tmp_path):
    loss, *normalise = case.split()
    config = DPOConfig(loss=loss, length_normalise=bool(normalise), beta=0.5).resolved()
    policy, reference = tiny_lm(seed=1, **MODELS), tiny_lm(seed=2, **MODELS)
    theirs = PairTrainer(
        model=copy.deepcopy(policy), ref_model=reference, train_dataset=Dataset.from_list(PAIRS),
        args=arguments(TRLDPOConfig, tmp_path, 3, **trl_options(config)), processing_class=letters(),
    )  # fmt: skip
    expected = gradients(theirs, next(iter(theirs.get_train_dataloader())))
    if packed:
        assert pack(policy) is None
    (found, slopes), _ = our_dpo(tmp_path, config, policy, reference)
    assert found == pytest.approx(expected[0], abs=1e-5)
    torch.testing.assert_close(slopes, expected[1], atol=1e-5, rtol=1e-4)
    assert max(float(slope.abs().max()) for slope in slopes) > 1e-3


def test_what_trls_own_trainer_lacks_is_named():
    for options, named in (
        ({}, []),
        ({"loss": "robust", "length_normalise": False}, []),
        ({"loss": "simpo"}, ["--loss simpo"]),
        ({"loss": "hinge", "length_normalise": True}, ["--loss hinge --length-normalise"]),
        ({"label_smoothing": 0.1, "reference_free": True}, ["--reference-free", "--label-smoothing"]),
        ({"sft_weight": 0.1, "reward": ["rm"], "weight_column": "w"}, ["--reward", "--sft-weight", "--weight-column"]),
    ):
        config = DPOConfig(**options).resolved()
        assert not_in_trl(config) == named and (trl_options(config) is None) == bool(named)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("apart", "accuracy"), [(2e-6, 0.5), (-2e-6, 0.5), (1e-2, 0.0), (-1e-2, 1.0)])
def test_before_the_first_update_no_pair_is_right_or_wrong_whatever_rounding_says(
    apart, accuracy, normalise, tmp_path, monkeypatch
):
    """Policy and reference are one model, whose log-probabilities of like rows differ in their last digits."""
    of = ReferenceLogps.of

    def rounded(self, pairs, rows):
        return of(self, pairs, rows) + torch.tensor([apart, 0.0]).repeat(len(pairs))

    monkeypatch.setattr(ReferenceLogps, "of", rounded)
    policy = tiny_lm(seed=1, **MODELS)
    config = DPOConfig(beta=0.5, length_normalise=normalise).resolved()
    _, trainer = our_dpo(tmp_path, config, policy, copy.deepcopy(policy))
    assert trainer._metrics["train"]["rewards/accuracies"] == [accuracy]
    assert 0 < abs(trainer._metrics["train"]["rewards/margins"][0]) < 0.01


def logps_of(model, pair, side):
    """Σ log π of an answer, and its length, one token at a time."""
    ids, prompt = pair["prompt_ids"] + pair[side], len(pair["prompt_ids"])
    found = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    return sum(found[t - 1, ids[t]] for t in range(prompt, len(ids))), len(pair[side])


def test_ipo_regresses_the_sum_and_under_the_flag_the_mean(tmp_path):
    policy, reference, losses = tiny_lm(seed=1, **MODELS), tiny_lm(seed=2, **MODELS), {}
    for mean in (False, True):
        expected = 0.0
        for pair in PAIRS:
            sides = []
            for side in ("chosen_ids", "rejected_ids"):
                (a, n), (b, _) = logps_of(policy, pair, side), logps_of(reference, pair, side)
                sides.append(float(a - b) / (n if mean else 1))
            expected += (sides[0] - sides[1] - 1 / (2 * 0.5)) ** 2 / len(PAIRS)
        config = DPOConfig(loss="ipo", length_normalise=mean, beta=0.5).resolved()
        (losses[mean], _), _ = our_dpo(tmp_path, config, copy.deepcopy(policy), reference)
        assert losses[mean] == pytest.approx(expected, rel=1e-4)
        assert ("mean a token" if mean else "sum over tokens") in config.in_words and "= 1" in config.in_words
    assert abs(losses[True] - losses[False]) > 0.1


def test_simpo_is_that_of_trls_cpo_trainer(tmp_path):
    from trl.experimental.cpo import CPOTrainer

    policy = tiny_lm(seed=1, **MODELS)
    means = [[lp / n for lp, n in (logps_of(policy, pair, side) for pair in PAIRS)]
             for side in ("chosen_ids", "rejected_ids")]  # fmt: skip
    options = {"alpha": 0.0, "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.0, "loss_type": "simpo"}
    theirs = SimpleNamespace(**options, accelerator=SimpleNamespace(device="cpu"))
    losses, *_ = CPOTrainer.cpo_loss(theirs, *map(torch.stack, means))
    expected = losses.mean()
    slopes = torch.autograd.grad(expected, list(policy.parameters()), allow_unused=True)
    (found, mine), _ = our_dpo(tmp_path, DPOConfig(loss="simpo", simpo_gamma=0.7).resolved(), policy, None)
    assert found == pytest.approx(float(expected), abs=1e-5)
    torch.testing.assert_close(mine, [s for s in slopes if s is not None], atol=1e-5, rtol=1e-4)


def test_the_sft_term_weights_and_margins_enter_as_said(tmp_path):
    policy, reference = tiny_lm(seed=1, **MODELS), tiny_lm(seed=2, **MODELS)
    pairs = [{**pair, "weight": w, "margin": m} for pair, w, m in zip(PAIRS, (1.0, 0.0, 2.5), (0.3, 1.0, -0.4))]
    expected = 0.0
    for pair in pairs:
        (c, n), (r, _) = (logps_of(policy, pair, side) for side in ("chosen_ids", "rejected_ids"))
        (cr, _), (rr, _) = (logps_of(reference, pair, side) for side in ("chosen_ids", "rejected_ids"))
        z = (0.5 * float((c - cr) - (r - rr)) - pair["margin"]) / 0.6
        expected += pair["weight"] * (-math.log(sig(z)) - 0.25 * float(c) / n) / len(pairs)
    config = DPOConfig(beta=0.5, sft_weight=0.25).resolved()
    (found, _), _ = our_dpo(tmp_path, config, policy, reference, pairs, share=0.6)
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_a_reference_ratios_are_log_probabilities(tmp_path):
    policy = tiny_lm(seed=1, **MODELS)
    gaps = [float(logps_of(policy, p, "chosen_ids")[0] - logps_of(policy, p, "rejected_ids")[0]) for p in PAIRS]
    (found, _), _ = our_dpo(tmp_path, DPOConfig(reference_free=True).resolved(), policy, None)
    assert found == pytest.approx(sum(-math.log(sig(0.1 * gap)) for gap in gaps) / len(gaps), rel=1e-4)


class LabelledTrainer(KTOTrainer):
    """TRL's on token ids, with the mismatched answers that it would prepare."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


@pytest.mark.parametrize(("one", "other", "above"), [(1, 2, False), (5, 1, True), (2, 1, True)])
def test_loss_kl_and_gradient_of_kto_are_those_of_trl(one, other, above, tmp_path):
    """Also where z₀ is above 0, so that it can be missed."""
    policy, reference = tiny_lm(seed=one, **MODELS), tiny_lm(seed=other, **MODELS)
    others = [ANSWERS[i - 1]["completion_ids"] for i in range(len(ANSWERS))]
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
    theirs = LabelledTrainer(
        model=copy.deepcopy(policy), ref_model=reference, processing_class=letters(),
        train_dataset=Dataset.from_list([{**a, "KL_completion_ids": o} for a, o in zip(ANSWERS, others)]),
        args=arguments(TRLKTOConfig, tmp_path, len(ANSWERS), beta=0.5, train_sampling_strategy="sequential", **weights),
    )  # fmt: skip
    expected = gradients(theirs, next(iter(theirs.get_train_dataloader())))
    assert pack(policy) is None
    ours = our_kto(tmp_path, policy, reference, len(ANSWERS), **weights)
    found = gradients(ours, {"examples": [dict(answer) for answer in ANSWERS]})
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-4)
    mine, trls = ours._metrics["train"], theirs._metrics["train"]
    for name in ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "entropy"):
        assert mine[name] == pytest.approx(trls[name], abs=1e-4), name
    # and z₀ from forwards over one sequence at a time
    ratios = [
        float(logps_of(policy, {**a, "x": o}, "x")[0] - logps_of(reference, {**a, "x": o}, "x")[0])
        for a, o in zip(ANSWERS, others)
    ]
    assert mine["kl"][0] == pytest.approx(max(0.0, sum(ratios) / len(ratios)), abs=1e-4)
    assert (mine["kl"][0] > 0.01) == above


def test_a_rows_weight_multiplies_its_loss_in_kto(tmp_path):
    policy, reference = tiny_lm(seed=5, **MODELS), tiny_lm(seed=1, **MODELS)
    answers = [{**answer, "weight": weight} for answer, weight in zip(ANSWERS, (0.0, 2.0, 1.0, 0.5, 2.5, 0.0))]
    trainer = our_kto(tmp_path, policy, reference, len(answers), desirable_weight=1.3, undesirable_weight=0.7)
    expected = []
    for answer in answers:
        (mine, _), (theirs, _) = (logps_of(model, answer, "completion_ids") for model in (policy, reference))
        kind, sign = (1.3, 1) if answer["label"] else (0.7, -1)
        expected.append((answer["weight"], kind, sign, float(mine - theirs)))
    found, _ = gradients(trainer, {"examples": [dict(answer) for answer in answers]})
    kl = float(trainer._kl)
    losses = [weight * kind * (1 - sig(0.5 * sign * (ratio - kl))) for weight, kind, sign, ratio in expected]
    assert kl > 0.01 and found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("parts", [1, 2])
def test_over_several_processes_an_answer_is_mismatched_with_the_one_before_it_in_the_order_of_one(
    rank, parts, tmp_path, monkeypatch
):
    """Two processes with two rows in each part: one process would have the first parts of both first."""
    numbered = [{"prompt_ids": [1], "completion_ids": [n], "label": True} for n in range(4 * parts)]
    batches = [numbered[start : start + 2] for start in range(0, len(numbered), 2)]
    own = {process: batches[process::2] for process in (0, 1)}
    trainer = our_kto(tmp_path, tiny_lm(seed=5, **MODELS), tiny_lm(seed=1, **MODELS), 2)
    last = [[part[-1]["completion_ids"] for part in own[process]] for process in (0, 1)]
    monkeypatch.setattr("prefcli.stages.kto.gather_object", lambda mine: last)
    trainer.accelerator = SimpleNamespace(num_processes=2, process_index=rank)
    monkeypatch.setattr(trainer, "_mismatched", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        trainer.begin(None, own[rank])
    for example in (example for part in own[rank] for example in part):
        (number,) = example["completion_ids"]
        assert example["other_ids"] == [(number - 1) % len(numbered)]


def our_kto(tmp_path, policy, reference, rows, eval_dataset=None, **options):
    trainer = KTOSteps(
        model=policy, ref_model=None, processing_class=letters(), train_dataset=Dataset.from_list(ANSWERS),
        eval_dataset=eval_dataset,
        args=arguments(TRLKTOConfig, tmp_path, rows, beta=0.5, train_sampling_strategy="sequential",
                       precompute_ref_log_probs=True, per_device_eval_batch_size=rows),
        tokens_per_row=14, config=KTOConfig(beta=0.5, **options),
    )  # fmt: skip
    trainer.reference, trainer.at_work = reference, lambda: reference_at_work(reference, trainer.accelerator)
    return trainer


@pytest.mark.parametrize("sizes", [(3, 3), (2, 2, 2), (4, 2)])
def test_splitting_a_step_changes_neither_ktos_reference_point_nor_its_gradient(sizes, tmp_path):
    """Of parts z₀ would be a mean of several max(0, ·), above that of the whole."""
    found = {}
    for name, parts in (("whole", (6,)), ("parts", sizes)):
        policy, reference = tiny_lm(seed=5, **MODELS), tiny_lm(seed=1, **MODELS)
        trainer = our_kto(tmp_path, policy, reference, max(parts))
        left = iter([dict(answer) for answer in ANSWERS])
        batches = [{"examples": [next(left) for _ in range(size)]} for size in parts]
        found[name] = gradients(trainer, *batches)
        told = trainer._metrics["train"]["kl"]
        assert trainer._kl > 0.01 and told == pytest.approx([float(trainer._kl)] * len(told), rel=1e-6)
        found[name] += (float(trainer._kl),)
    assert found["parts"][2] == pytest.approx(found["whole"][2], abs=1e-6)
    assert found["parts"][0] == pytest.approx(found["whole"][0], abs=1e-6)
    torch.testing.assert_close(found["parts"][1], found["whole"][1], atol=1e-6, rtol=1e-4)


def test_kto_is_its_formula_and_no_gradient_goes_through_the_reference_point():
    ratios = torch.tensor(CHOSEN, requires_grad=True)
    labels = torch.tensor([True, False, True, True, False])
    kl = reference_point(ratios)
    assert float(kl) == 0 and float(reference_point(-ratios)) == pytest.approx(5.8 / 5)
    found = kto(ratios, labels, reference_point(-ratios), beta=0.3, desirable=2.0, undesirable=0.5)
    expected = [2 * (1 - sig(0.3 * (r - 1.16))) if label else 0.5 * (1 - sig(0.3 * (1.16 - r)))
                for r, label in zip(CHOSEN, labels.tolist())]  # fmt: skip
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    slope = 2 * 0.3 * sig(0.3 * (0.7 - 1.16)) * (1 - sig(0.3 * (0.7 - 1.16)))
    assert ratios.grad[0].item() == pytest.approx(-slope, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "--label-smoothing has no effect with --loss ipo"),
        ({"simpo_gamma": 1.0}, "--simpo-gamma has no effect with --loss sigmoid"),
        ({"loss": "ipo", "reward": ["rm"]}, "--reward does not go with --loss ipo"),
        ({"reward_weight": ["rm=1"]}, "--reward-weight without --reward"),
        ({"standardise_rewards": True}, "--standardise-rewards without --reward"),
        ({"loss": "simpo", "reference": "sft"}, "--reference has no meaning"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        DPOConfig(**options).resolved()


@pytest.mark.parametrize("spoil", ["scaled", "half", "no checksum", "as it was"])
def test_kept_log_probabilities_that_were_changed_are_computed_anew(tmp_path, spoil):
    file = tmp_path / "logps.safetensors"
    first = ReferenceLogps(3, file)
    first.logps = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
    first.save(SILENT)
    if spoil == "half":
        file.write_bytes(file.read_bytes()[:-4])
    elif spoil != "as it was":
        with safe_open(file, "pt") as found:
            about = found.metadata() if spoil == "scaled" else None
        save_file({"logps": first.logps * (1.5 if spoil == "scaled" else 1)}, file, about)
    again = ReferenceLogps(3, file)
    assert again.known == (3 if spoil == "as it was" else 0)
    again.logps = first.logps
    again.save(SILENT)
    assert ReferenceLogps(3, file).known == 3


def test_what_each_of_several_processes_computed_is_kept(tmp_path):
    file = tmp_path / "logps.safetensors"
    both = [ReferenceLogps(3, file) for _ in range(2)]
    both[0].logps[:2], both[1].logps[1:] = -1.0, -2.0
    for one in both:
        one.save(SILENT)
    assert ReferenceLogps(3, file).logps[:, 0].tolist() == [-1, -2, -2]


@pytest.mark.parametrize("wrong", ["a file in the way", "a full disk"])
def test_log_probabilities_that_cannot_be_kept_are_said_and_cost_no_training(tmp_path, monkeypatch, wrong):
    def full(_tensors, file, _about):
        file.write_bytes(b"half")
        raise SafetensorError("Error while serializing: No space left on device")

    folder, said, reporter = tmp_path / "kept", [], Reporter()
    reporter.notice = said.append
    monkeypatch.setattr("prefcli.stages.reference.save_file", full)
    if wrong == "a file in the way":
        folder.write_text("")
    logps = ReferenceLogps(1, folder / "logps.safetensors")
    logps.logps[:] = -1.0
    logps.save(reporter)
    assert len(said) == 1 and "cannot be kept" in said[0]
    assert folder.is_file() or [path.name for path in folder.iterdir()] == [".lock"]
