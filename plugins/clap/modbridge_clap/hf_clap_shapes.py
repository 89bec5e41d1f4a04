"""Inline CLAP models: the settings filled in, and what of them cannot work. Imports only the standard library.

HTSAT folds a log-mel spectrogram into a square picture and halves it from stage to stage, so few sizes fit together.
"""

from __future__ import annotations

import copy
from typing import Any

REQUIRED = ("projection_dim", "audio_config", "text_config")
OPTIONAL = ("features", "projection_hidden_act", "logit_scale_init_value", "initializer_factor")
FUSION_LENGTH = "fusion"
CROP_LENGTH = "rand_trunc"

# What transformers takes for settings that are left out (ClapAudioConfig, ClapFeatureExtractor).
_AUDIO = {
    "spec_size": 256,
    "num_mel_bins": 64,
    "patch_stride": [4, 4],
    "depths": [2, 2, 6, 2],
    "num_attention_heads": [4, 8, 16, 32],
    "window_size": 8,
    "patch_embeds_hidden_size": 96,
    "enable_fusion": False,
}
_FEATURES = {"sampling_rate": 48_000, "hop_length": 480, "max_length_s": 10, "fft_window_size": 1024}


def inline_problem(model: dict[str, Any]) -> str | None:
    """What keeps an inline model from being read as one; None if nothing does."""
    missing = [key for key in REQUIRED if key not in model]
    unknown = sorted(set(model) - set(REQUIRED) - set(OPTIONAL))
    if missing or unknown:
        told = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has the unknown {', '.join(unknown)}"] * bool(
            unknown
        )
        return f"an inline model {' and '.join(told)}; expected {', '.join(REQUIRED)}, and maybe {', '.join(OPTIONAL)}"
    dim = model["projection_dim"]
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        return "an inline model's `projection_dim` must be a whole number above 0"
    for part in ("audio_config", "text_config", "features"):
        if not isinstance(model.get(part, {}), dict):
            return f"an inline model's `{part}` must be a block of settings"
    for known, given in ((_AUDIO, model["audio_config"]), (_FEATURES, model.get("features", {}))):
        for name, example in known.items():
            if name in given and not _like(given[name], example):
                return f"an inline model's `{name}` must be like {example!r}; found {given[name]!r}"
    return None


def _like(value: Any, example: Any) -> bool:
    """Whether a setting is of its kind: a switch, a list of whole numbers above 0, or a number above 0."""
    if isinstance(example, bool):
        return isinstance(value, bool)
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(_like(item, 1) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def filled(model: dict[str, Any]) -> dict[str, Any]:
    """A copy of an inline model in which what follows from other settings is written out."""
    found = copy.deepcopy(model)
    audio, features = found["audio_config"], found.setdefault("features", {})
    for name, value in _AUDIO.items():
        audio.setdefault(name, value)
    for name, value in _FEATURES.items():
        features.setdefault(name, value)
    features.setdefault("feature_size", audio["num_mel_bins"])
    features.setdefault("truncation", FUSION_LENGTH if audio["enable_fusion"] else CROP_LENGTH)
    features.setdefault("frequency_max", min(14_000, features["sampling_rate"] // 2))
    audio.setdefault("hidden_size", audio["patch_embeds_hidden_size"] * 2 ** (len(audio["depths"]) - 1))
    if audio["enable_fusion"]:
        audio.setdefault("fusion_type", "aff_2d")
    return found


def shape_problem(audio: dict[str, Any], features: dict[str, Any]) -> str | None:
    """Which sizes of a model do not fit together; None if all do.

    `audio`: ClapAudioConfig's settings, `features`: ClapFeatureExtractor's, both complete.
    """
    spec, mel, depths = audio["spec_size"], audio["num_mel_bins"], audio["depths"]
    stride = audio["patch_stride"]
    stride = stride if isinstance(stride, int) else stride[0]
    rate, hop, window = features["sampling_rate"], features["hop_length"], features["fft_window_size"]
    length = features["max_length_s"] * rate
    folds, halvings = spec // mel, 2 ** (len(depths) - 1)
    frames, grid = int(length) // hop + 1, spec // stride
    expected = FUSION_LENGTH if audio["enable_fusion"] else CROP_LENGTH
    checks = [
        (
            features["truncation"] == expected,
            f"`truncation: {features['truncation']}` does not go with enable_fusion {audio['enable_fusion']}: the "
            f"features must have {expected!r}",
        ),
        (
            features["feature_size"] == mel,
            f"the features have {features['feature_size']} mel bins (feature_size), the network {mel} (num_mel_bins)",
        ),
        (
            length == int(length) and length > window // 2,
            f"max_length_s {features['max_length_s']} is {length:g} samples of {rate} Hz: expected a whole number, and "
            f"more than half of fft_window_size ({window})",
        ),
        (
            2 * features["frequency_max"] <= rate,
            f"frequency_max {features['frequency_max']} is above half of sampling_rate {rate}",
        ),
        (
            folds >= 1 and spec % mel == 0,
            f"spec_size {spec} must be a multiple of num_mel_bins {mel}",
        ),
        (
            folds < 1 or frames <= spec * folds,
            f"{frames} frames (max_length_s x sampling_rate / hop_length + 1) are more than the network holds, "
            f"spec_size^2 / num_mel_bins = {spec * folds}: raise hop_length or spec_size",
        ),
        (
            len(audio["num_attention_heads"]) == len(depths),
            f"depths has {len(depths)} stages, num_attention_heads {len(audio['num_attention_heads'])}",
        ),
        (
            audio["hidden_size"] == audio["patch_embeds_hidden_size"] * halvings,
            f"hidden_size {audio['hidden_size']} must be patch_embeds_hidden_size x 2^(stages - 1) = "
            f"{audio['patch_embeds_hidden_size'] * halvings}",
        ),
        (
            spec % stride == 0 and grid % (halvings * max(folds, 1)) == 0,
            f"spec_size / patch_stride = {spec / stride:g} must be a multiple of {halvings * max(folds, 1)}: halved by "
            f"each of {len(depths) - 1} stages, folded {max(folds, 1)} times",
        ),
        (
            audio["window_size"] <= max(grid // halvings, 1),
            f"window_size {audio['window_size']} is larger than the last stage's grid, {grid // halvings}",
        ),
    ]
    return next((told for fits, told in checks if not fits), None)
