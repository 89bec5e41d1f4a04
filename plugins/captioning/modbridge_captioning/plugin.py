"""Announces the captioning decoders and the judge. Light: the parts themselves are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="decoder",
            name="prefix_lm",
            config="modbridge_captioning.config:PrefixLmConfig",
            impl="modbridge_captioning.prefix_lm:PrefixLmDecoder",
            summary="a causal language model (GPT-2, Llama) that writes on from a prefix mapped from the vector",
            example={
                "type": "prefix_lm",
                "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16},
                "tokenizer": "words",
                "prefix_length": 2,
                "steps": 4,
                "batch_size": 4,
                "lr": 1e-3,
                "generate": {"max_new_tokens": 8},
            },
        )
    )
    register(
        ComponentSpec(
            kind="judge",
            name="lm_judge",
            config="modbridge_captioning.judge_config:LmJudgeConfig",
            impl="modbridge_captioning.lm_judge:LmJudge",
            summary="any causal language model of transformers, which answers questions on texts",
            example_from="modbridge_captioning.examples:lm_judge",
        )
    )
