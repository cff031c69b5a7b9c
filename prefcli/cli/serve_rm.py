"""`prefcli serve-rm REF`: a reward model that answers over HTTP, until it is interrupted."""

from __future__ import annotations

import json

from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result, reporter
from prefcli.config.serve import ServeConfig
from prefcli.errors import UsageError
from prefcli.rewards.grammar import parse_rewards, refuse_language_model


def run(config: ServeConfig) -> None:
    (spec,) = parse_rewards([config.ref], Store(config.runs), label=config.label)
    if spec.reference is None:
        raise UsageError(f"serve-rm {config.ref} is not a model", "give a reward model: prefcli serve-rm rm")
    refuse_language_model(spec)
    from prefcli.models.devices import pick_device, pick_dtype
    from prefcli.rewards.server import RewardServer
    from prefcli.rewards.sources import ModelReward, load_reward

    report = reporter(config.quiet)
    device = pick_device(config.device)
    with RewardServer(
        config.host, config.port, report, config.allow_host
    ) as server:  # first: a port in use shows before a model loads
        dtype = pick_dtype(config.dtype, device)
        source = load_reward(spec, None, dtype=dtype, device=device, reporter=report)
        assert isinstance(source, ModelReward)
        server.source = source
        report.notice(f"serving {spec.reference.shown} on {device}; POST to {server.url}/get_reward; Ctrl-C ends it")
        print_result(json.dumps({"url": server.url, "ref": spec.reference.shown}) if config.json else server.url)
        server.serve_forever()
