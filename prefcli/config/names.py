"""Names of TRL, Hugging Face and LLaMA-Factory: one table of what each means here, or why it has no counterpart.

A name is another word for an option of ours; or its values say what options of ours are; or nothing here answers to it,
and a sentence says what does. The command line and `--config` read it alike (spelling.py), docs/options.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefcli.config.dpo import LOSSES


@dataclass(frozen=True)
class Named:
    """The meaning of one of their names here.

    `ours`: the same option under another name. `values`: what its values are, each as options of ours; one that is not
    among them goes to `ours`, or is refused with `said`. `said` alone: nothing answers to it; `decides`: and without it
    the result is another one, so that a file which asks for it is refused. `off`: values that ask for nothing.
    """

    ours: str = ""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    said: str = ""
    decides: bool = True
    off: tuple[str, ...] = ()
    jointly: bool = False  # see settle

    @property
    def switch(self) -> bool:
        return bool(self.values) and set(self.values) <= set(BOOLEAN)


BOOLEAN = ("true", "false")
ON: dict[str, dict[str, str]] = {"true": {}, "false": {}}
# LLaMA-Factory's → the command
STAGES = {"pt": "sft", "sft": "sft", "rm": "train-rm", "ppo": "ppo", "dpo": "dpo", "kto": "kto"}

_RENAMED = {
    "base-model": "model",
    "model-name-or-path": "model", "dataset-name": "data", "dataset-path": "data", "output-name": "name",
    "run-name": "name", "exp-name": "name", "learning-rate": "lr", "num-train-epochs": "epochs", "num-epochs": "epochs",
    "train-batch-size": "batch-size", "warmup-ratio": "warmup", "max-seq-length": "max-length",
    "cutoff-len": "max-length", "lora-r": "lora-rank", "torch-dtype": "dtype",
    "eval-steps": "eval-every", "save-steps": "save-every", "dataset-train-split": "split",
    "router-aux-loss-coef": "router-loss", "moe-aux-loss-coef": "router-loss",
    "reward-model": "reward", "reward-model-path": "reward", "reward-model-name-or-path": "reward",
    "ref-model": "reference", "response-length": "max-new-tokens", "max-completion-length": "max-new-tokens",
    "cliprange": "clip-range", "epsilon": "clip-range", "cliprange-value": "clip-range-value", "beta": "kl-coef",
    "local-rollout-forward-batch-size": "generation-batch",
    "num-ppo-epochs": "ppo-epochs", "num-iterations": "ppo-epochs", "num-mini-batches": "minibatches",
    "ppo-target": "kl-target", "ppo-whiten-rewards": "whiten-rewards",
    "center-rewards-coefficient": "center-rewards", "pref-beta": "beta", "pref-ftx": "sft-weight",
    "rpo-alpha": "sft-weight", "dpo-label-smoothing": "label-smoothing", "kto-chosen-weight": "desirable-weight",
    "kto-rejected-weight": "undesirable-weight",
}  # fmt: skip
_LOSS = {
    theirs: {"loss": ours, "length_normalise": str(normalised).lower()}
    for ours, loss in LOSSES.items()
    for theirs, normalised in ((loss.in_trl[0], False), (loss.in_trl[1], True))
    if theirs
}
_ADAMW = {theirs: {"optim": "adamw"} for theirs in (
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw", "paged_adamw_32bit")} | {
    theirs: {"optim": "adamw-8bit"} for theirs in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")}  # fmt: skip
_ONE_LOSS = (
    "dpo has one --loss (prefcli dpo --help), and --sft-weight adds the SFT loss; orpo and kto are commands with one "
    "loss each; ppo has --advantage gae, rloo or grpo"
)
_VALUED = {
    "dataset": Named("data", jointly=True),
    "eval-dataset": Named("eval-data", jointly=True),
    "dataset-dir": Named(jointly=True, said="the folder of dataset_info.json, where the names of `dataset` are found",
                         decides=False),
    "template": Named(jointly=True, said="the model's own chat template and tokens are used, of plain prompts too "
                      "(--as-chat); --dry-run shows an example", decides=False),
    "max-samples": Named("max-rows", jointly=True),
    "per-device-train-batch-size": Named("batch-size", jointly=True),
    "micro-batch-size": Named("batch-size", jointly=True),
    "gradient-accumulation-steps": Named("grad-accum", jointly=True),
    "use-peft": Named(values=ON, jointly=True, said="LoRA: --lora-rank 16"),
    "finetuning-type": Named(values={"lora": {}, "full": {}}, jointly=True,
                             said="all weights are trained, or a LoRA adapter (--lora-rank)"),
    "adapter-name-or-path": Named("model", jointly=True),
    "stage": Named(values=dict.fromkeys(STAGES, {}), jointly=True,
                   said="the stage is the command here: prefcli sft, train-rm, ppo, dpo, orpo, kto; text without "
                   "prompts is for sft (docs/data.md)"),
    "warmup-steps": Named("warmup", jointly=True),
    "total-episodes": Named("max-steps", jointly=True),
    "pref-loss": Named(values=_LOSS | {"simpo": {"loss": "simpo"}, "orpo": {}}, jointly=True, said=_ONE_LOSS),
    "loss-type": Named(values=_LOSS | {"simpo": {"loss": "simpo"}, "nll": {}, "chunked_nll": {}, "kto": {}},
                       said=_ONE_LOSS),
    "bf16": Named(values={"true": {"dtype": "bfloat16"}, "false": {}}, said="--dtype bfloat16"),
    "fp16": Named(values={"true": {"dtype": "float16"}, "false": {}}, said="--dtype float16"),
    "pure-bf16": Named(values={"true": {"dtype": "bfloat16"}, "false": {}}, said="--dtype bfloat16"),
    "use-cpu": Named(values={"true": {"device": "cpu"}, "false": {}}, said="--device cpu"),
    "use-dora": Named(values={"true": {"adapter": "dora"}, "false": {}}, said="--adapter dora"),
    "use-rslora": Named(values={"true": {"adapter": "rslora"}, "false": {}}, said="--adapter rslora"),
    "adapter": Named("adapter", {"qlora": {"adapter": "lora", "load_in_4bit": "true"}}),  # axolotl's
    "lora-target": Named("lora-target", {"all": {"lora_target": "all-linear"}}),
    "lora-target-modules": Named("lora-target", {"all": {"lora_target": "all-linear"}}),
    "quantization-bit": Named(values={"4": {"load_in_4bit": "true"}}, said="4 bits or none: --load-in-4bit"),
    "quantization-method": Named(values={"bnb": {}, "bitsandbytes": {}}, said="4 bits are bitsandbytes' (NF4)"),
    "quantization-type": Named(values={"nf4": {}}, said="4 bits are NF4"),
    "bnb-4bit-quant-type": Named(values={"nf4": {}}, said="4 bits are NF4"),
    "disable-gradient-checkpointing": Named(values={"true": {"gradient_checkpointing": "false"}},
                                            said="--gradient-checkpointing is off unless asked for"),
    "completion-only-loss": Named(values={"true": {}, "false": {"train_on_prompt": "true"}},
                                  said="--train-on-prompt trains the prompt too"),
    "assistant-only-loss": Named(values={"true": {}}, decides=False,
                                 said="only answers are trained, unless --train-on-prompt"),
    "optim": Named("optim", _ADAMW),
    "lr-scheduler-type": Named("lr-scheduler", {
        "constant": {"lr_scheduler": "constant", "warmup": "0"}, "constant_with_warmup": {"lr_scheduler": "constant"}}),
    "max-steps": Named("max-steps", {"-1": {}}),  # TrainingArguments' word for none
    "report-to": Named("report-to", {"": {"report_to": "none"}}),
}  # fmt: skip
_ANSWERS = "answers are sampled from the whole distribution at --temperature: their probabilities are what is trained"
_SHARDED = "accelerate launch --config_file FILE -m prefcli … starts several processes (docs/scaling.md)"
_IMAGES = "only text is read; rows with images are refused"
_SPEED = "about speed: the packed forward is used wherever it is exact (docs/packed.md)"
_QUANTISED = "prefcli export writes plain weights, in the type of the model; quantise them afterwards"
_MERGE = "prefcli export NAME DIR writes one plain model, its adapter merged"
_OPTIMISER = "--optim is adamw, adamw-8bit, adafactor or sgd"
_SWITCHED = {  # names, * for any end → what is said; no file is refused for them
    "output-dir overwrite-output-dir logging-dir": "the artifact is RUNS/NAME/vN and is never overwritten: "
    "--runs DIR, --name NAME",
    "logging-* log-level* log-on-* include-num-* include-tokens-* plot-loss log-completions* num-completions-to-print "
    "log-unique-* log-multimodal skip-memory-metrics print-param-status compute-accuracy include-effective-*":
    "every step is logged in the artifact's metrics.jsonl, and prefcli report draws it",
    "disable-tqdm": "--quiet",
    "save-strategy save-total-limit save-only-model save-safetensors save-on-each-node enable-jit-checkpoint":
    "a checkpoint is saved every ten minutes (--save-every N), and all are kept only with --keep-state",
    "resume-from-checkpoint ignore-data-skip restore-callback-*": "the same command resumes by itself",
    "do-train do-eval": "--dry-run shows the plan without training; with --eval-data held-out rows are evaluated",
    "do-predict predict-with-generate": "prefcli sample and prefcli eval answer prompts with a finished model",
    "eval-strategy evaluation-strategy eval-on-start eval-delay eval-packing eval-accumulation-steps "
    "batch-eval-metrics eval-num-beams eval-on-each-dataset bf16-full-eval fp16-full-eval prediction-loss-only "
    "generate-during-eval":
    "with --eval-data held-out rows are evaluated at the end, and every N steps with --eval-every N",
    "metric-for-best-model greater-is-better": "the last step is the result; --keep-state keeps every checkpoint",
    "per-device-eval-batch-size precompute-ref-batch-size eval-batch-size": "--tokens-per-row bounds a forward pass",
    "push-to-hub hub-* export-hub-model-id": "prefcli export NAME DIR --push-to-hub OWNER/NAME",
    "project trackio-* swanlab-* use-swanlab ray-run-name": "--report-to sends metrics to tensorboard, wandb, mlflow "
    "or trackio; their other settings are read from their own environment variables",
    "dataloader-* dataset-num-proc preprocessing-* overwrite-cache tokenized-path remove-unused-columns label-names "
    "streaming dataset-streaming buffer-size accelerator-config shuffle-dataset cache-dir data-shared-file-system":
    "rows are read, shuffled and tokenised by prefcli, large files as they are needed (docs/data.md)",
    "packing neat-packing":
    "rows are packed without padding and do not see each other (docs/packed.md); --batch-size counts rows, and a batch "
    "there counts blocks of several where they are packed: raise it then",
    "group-by-length length-column-name train-sampling-strategy packing-strategy padding-free "
    "pad-to-multiple-of padding-value ignore-pad-token-for-loss batching-strategy eval-do-concat-batches "
    "use-packed-sequences":
    "rows are packed without padding and do not see each other (docs/packed.md)",
    "attn-implementation flash-attn use-liger-kernel enable-liger-kernel liger-kernel-config use-unsloth* "
    "torch-compile* tf32 use-v1-kernels kernel-config use-kernels torch-empty-cache-steps optim-args use-cache "
    "use-kv-cache "
    "low-cpu-mem-usage use-fast-tokenizer activation-offloading activation-checkpointing* auto-find-batch-size "
    "sample-backend infer-backend infer-dtype": _SPEED,
    "gradient-checkpointing-kwargs use-reentrant-gc upcast-* use-bnb-nested-quant double-quantization "
    "quantization-device-map bnb-4bit-* precompute-ref-log-probs":
    "prefcli always uses the exact method; sums are in float32; the reference's log-probabilities are computed once",
    "disable-dropout": "nothing is trained with dropout but an adapter's own (--lora-dropout)",
    "trust-remote-code": "no model's own code is run (docs/safety.md)",
    "tool-format chat-template-kwargs eos-token pad-token default-system enable-thinking model-class":
    "the model's own chat template and tokens are used; --dry-run shows an example",
    "deepspeed fsdp fsdp-* dist-config ddp-* local-rank ray-* use-ray use-kt kt-* parallelism-config init-config "
    "resources-per-worker placement-strategy *-parallel-size *parallel *-megatron-* use-mca offload-folder "
    "use-distributed-optimizer overlap-* *-fusion moe-grouped-gemm moe-token-* recompute-granularity cp-size cp-mode":
    _SHARDED,
    "image-* video-* audio-* freeze-vision-tower freeze-multi-modal-projector freeze-language-model media-dir "
    "crop-to-patches use-audio-in-video": _IMAGES,
    "num-sample-generations steps-per-generation generation-batch-size "
    "ds3-gather-for-generation stop-token use-transformers-* cache-implementation":
    "a rollout is --batch-size answers, sampled together, which end at the model's end token",
    "max-new-tokens temperature": "answers are sampled by ppo, sample and eval",
    "use-vllm vllm-*": "--generate http://host:port has a vLLM server answer for ppo (docs/engine.md)",
    "max-prompt-length": "no separate limit, as in TRL now: prompt and answer together are cut at --max-length, at the "
    "end; ppo has the option",
    "lora-task-type reward-model-type ref-model-quantization-bit reward-model-quantization-bit":
    "found out from the model itself",
    "hf-hub-token ms-hub-token om-hub-token": "hf auth login, or HF_TOKEN",
    "export-*": _MERGE,
    "data-seed full-determinism": "--seed; a run can be repeated bit for bit",
    "debug": "--debug shows the traceback of an error",
    "average-tokens-across-devices": "sums are divided by the tokens of the whole batch",
}  # fmt: skip
_DECIDING = {  # without these the result is another one
    "generate": "ppo, sample, eval, chat and sweep ppo answer prompts. label takes answers of sample --generate, and a "
    "judge at a server is --by judge:URL#MODEL (docs/engine.md)",
    "neftune-noise-alpha": "no noise is added to embeddings",
    "label-smoothing-factor": "--label-smoothing of dpo is about pairs; sft has none",
    "adam-beta1": "AdamW's β1 is 0.9",
    "adam-beta2": "AdamW's β2 is 0.999",
    "adam-epsilon": "AdamW's ε is 1e-8, in ppo 1e-5",
    "lr-scheduler-kwargs": "--lr-scheduler is linear, cosine or constant, to 0",
    "use-galore galore-* use-apollo apollo-* use-badam badam-* use-adam-mini use-muon optim-target-modules "
    "loraplus-* optim-config": _OPTIMISER,
    "pissa-* create-new-adapter additional-target lora-modules-to-save lora-target-parameters use-llama-pro oft-* "
    "freeze-trainable-* freeze-extra-* module-dropout peft-config":
    "an adapter is --lora-rank with --lora-target, --lora-alpha, --lora-dropout and --adapter (docs/adapters.md)",
    "load-in-8bit quant-config": "4 bits or none: --load-in-4bit",
    "fp8 fp8-* mixed-precision": "--dtype is float32, bfloat16 or float16",
    "mixture-of-depths rope-scaling shift-attn resize-vocab add-tokens add-special-tokens new-special-tokens-config "
    "init-special-tokens train-from-scratch model-init-kwargs split-special-tokens adapter-folder chat-template-path "
    "chat-template":
    "a model is trained as its files are: change them first, and give their directory as --model",
    "model-revision": "hf download MODEL --revision R --local-dir DIR, and --model DIR",
    "val-size test-split-size": "delete it, then prefcli data split FILE --held-out 0.1; its two files are for --data "
    "and --eval-data (train-rm: --eval-share 0.1 instead)",
    "dataset-test-split": "--eval-data FILE; hf download DATASET --repo-type dataset brings the splits as files",
    "dataset-mixture dataset-mixer dataset-splits dataset-config dataset-kwargs dataset-text-field train-dataset "
    "ignore-bias-buffers":
    "--data takes files, folders and hub ids (--split), --map renames columns (docs/data.md)",
    "mask-history": "every answer of a dialogue is trained",
    "interleave-probs mix-strategy": "--data-weight, one for each --data",
    "truncation-mode": "prompt and answer are cut at --max-length, at the end",
    "use-dft-loss use-asft-loss asft-alpha use-eaft-loss eaft-alpha": "sft minimises −log π of the answers",
    "loss-weights ld-alpha f-divergence-type f-alpha-divergence-coef use-weighting discopop-tau pref-bco-weight "
    "simpo-gamma cpo-alpha": _ONE_LOSS,
    "sync-ref-model ref-model-mixup-alpha ref-model-sync-steps": "the reference is frozen (--reference)",
    "load-best-model-at-end": "the last step is the result; --keep-state keeps every checkpoint",
    "ref-model-adapters reward-model-adapters": "give the adapter itself as --reference or --reward: its files name "
    "its base",
    "sft-model-path": "--model",
    "reward-funcs reward-weights": "--reward NAME=python:FILE:FUNCTION, --reward-weight NAME=0.5, once for each reward",
    "top-p top-k min-p repetition-penalty generation-kwargs num-beams do-sample length-penalty": _ANSWERS,
    "ppo-buffer-size ppo-score-norm scale-rewards normalize-advantages multi-objective-* delta epsilon-high "
    "importance-sampling-level mask-truncated-* top-entropy-* use-adaptive-entropy entropy-* reward-clip-range "
    "off-policy-* use-bias-correction-kl sapo-* vespo-* max-tool-*":
    "of another algorithm than ppo's gae, rloo and grpo (prefcli ppo --help, docs/ppo.md)",
}  # fmt: skip
_OFF = {"adam-beta1": ("0.9",), "adam-beta2": ("0.999",), "adam-epsilon": ("1e-8",), "top-p": ("1",),
        "top-k": ("-1", "0"), "repetition-penalty": ("1",), "loraplus-lr-embedding": ("1e-6",),
        "mix-strategy": ("concat",),
        "f-divergence-type": ("reverse_kl",), "model-revision": ("main",), "loss-weights": ("1",),
        "dataset-test-split": ("test",), "dataset-text-field": ("text",), "truncation-mode": ("keep_start",),
        "ppo-buffer-size": ("1",), "reward-weights": ("1",), "length-penalty": ("1",), "num-beams": ("1",),
        "do-sample": ("true",), "importance-sampling-level": ("token",), "scale-rewards": ("group", "true"),
        "mixed-precision": ("bf16_mixed", "bf16")}  # fmt: skip

NAMES: dict[str, Named] = (
    {name: Named(ours) for name, ours in _RENAMED.items()}
    | _VALUED
    | {name: Named(said=said, decides=False) for names, said in _SWITCHED.items() for name in names.split()}
    | {name: Named(said=said, off=_OFF.get(name, ())) for names, said in _DECIDING.items() for name in names.split()}
)
ALIASES = {name: entry.ours for name, entry in NAMES.items() if entry.ours and entry.ours != name}

# What other programs' commands are here.
COMMANDS = {
    "grpo": "prefcli ppo --advantage grpo (with --num-generations, --kl-in; docs/ppo.md)",
    "rloo": "prefcli ppo --advantage rloo (docs/ppo.md)",
    "reward": "prefcli train-rm",
    "rm-train": "prefcli train-rm",
    "train": "the stage is the command: prefcli sft, train-rm, ppo, dpo, orpo or kto, with --config FILE as it is",
    "trl": "leave that word out: prefcli sft, train-rm, ppo, dpo, orpo and kto take TRL's options and YAML files",
    "llamafactory-cli": "the stage is the command: prefcli sft, train-rm, ppo, dpo, orpo or kto, with --config FILE as "
    "it is",
    "ipo": "prefcli dpo --loss ipo",
    "simpo": "prefcli dpo --loss simpo",
    "cpo": "prefcli does not have it; prefcli dpo --loss simpo and prefcli orpo need no reference either",
    "bco": "prefcli does not have it; prefcli kto takes the same rows",
    "online-dpo": "prefcli sample, label and dpo in turn (docs/online.md)",
    "distillation": "prefcli does not have it: prefcli sample, then sft on the answers (docs/online.md)",
    "pretrain": "prefcli sft, on rows with a column text",
    "pt": "prefcli sft, on rows with a column text",
    "env": "prefcli info",
    "version": "prefcli --version",
    "merge": "prefcli export NAME DIR merges an adapter",
    "merge-lora": "prefcli export NAME DIR merges an adapter",
    "infer": "prefcli sample for files of prompts, prefcli chat at the terminal",
    "generate": "prefcli sample",
    "rlhf": "prefcli ppo, dpo, orpo or kto",
    "deploy": "prefcli export NAME DIR, and serve that directory; a reward model: prefcli serve-rm",
    "vllm-serve": "start vLLM itself, and give its address to prefcli ppo --generate (docs/engine.md)",
    "webui": "prefcli ui",
    "webchat": "prefcli chat",
    "api": "prefcli export NAME DIR, and serve that directory; a reward model: prefcli serve-rm",
}
