"""`laion_clap` and `hf_clap` on one set of weights, across two environments; and against the package's own methods."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modbridge.testing import build

# float32 through twelve to sixteen layers, by two libraries and two ways to a spectrogram
TOLERANCE = 1e-4


def _gap(name: str, found: Any, wanted: Any, capsys: pytest.CaptureFixture[str]) -> float:
    """The largest difference of a coordinate. Vectors of different inputs must lie a hundred times as far apart."""
    gap = float(np.abs(found - wanted).max())
    others = np.abs(wanted[:, None] - wanted[None]).max(-1)[~np.eye(len(wanted), dtype=bool)]
    with capsys.disabled():
        print(f"\nparity of {name}: {gap:.1e} at most; unlike inputs {others.min():.1e} at least ({len(found)} items)")
    assert others.min() > 100 * gap
    return gap


def test_sounds_have_the_vectors_of_hf_clap(reference: Any, encoder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = reference.vectors["audio"]
    found = encoder.encode(reference.sounds, "audio").values.numpy()
    assert _gap("sounds", found, wanted, capsys) < TOLERANCE


def test_texts_have_the_vectors_of_hf_clap(reference: Any, encoder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = reference.vectors["text"]
    found = encoder.encode(reference.texts, "text").values.numpy()
    assert _gap("texts", found, wanted, capsys) < TOLERANCE


def test_fused_sounds_have_the_vectors_of_hf_clap(
    fused: Any, fused_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = fused.vectors["audio"]
    found = fused_encoder.encode(fused.sounds, "audio").values.numpy()
    assert _gap("sounds of a fused network", found, wanted, capsys) < TOLERANCE


def _authors(encoder: Any, fusion: bool) -> Any:
    """The package's CLAP_Module around the encoder's network, without the downloads of its __init__."""
    from laion_clap import CLAP_Module
    from modbridge_laion_clap.package import draw_network

    _, settings = draw_network("HTSAT-tiny", fusion)
    network = encoder._network  # there is no public way to the network, and it should not be
    tokenizer = encoder._tokens._tokenizer
    shell = SimpleNamespace(
        model=network, model_cfg={"audio_cfg": settings}, enable_fusion=fusion, tokenize=tokenizer
    )  # fmt: skip
    shell.tokenizer = lambda text: CLAP_Module.tokenizer(shell, text)
    return SimpleNamespace(
        sounds=lambda paths: CLAP_Module.get_audio_embedding_from_filelist(shell, [str(path) for path in paths]),
        texts=lambda texts: CLAP_Module.get_text_embedding(shell, texts),
    )


def test_sounds_have_the_vectors_of_the_packages_own_method(
    reference: Any, encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the 16 bits; clips of 48 kHz (no resampling) and 10 s at most (no random crop)."""
    sounds = [path for path in reference.sounds if path.suffix == ".wav" and path.stem != "long"]
    assert len(sounds) == 4
    with torch.inference_mode():
        wanted = _authors(encoder, fusion=False).sounds(sounds)
    found = build("encoder", reference.config()).encode(sounds, "audio").values.numpy()
    assert _gap("sounds with the package's method", found, wanted, capsys) < 1e-5
    assert np.abs(encoder.encode(sounds, "audio").values.numpy() - wanted).max() > 1e-5  # the 16 bits matter


def test_texts_have_the_vectors_of_the_packages_own_method(encoder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Long ones too, which the package cuts after 77 tokens."""
    texts = ["a dog barks", "heavy rain falls on a roof while a dog barks " * 12, "rain"]
    with torch.inference_mode():
        wanted = _authors(encoder, fusion=False).texts(texts)
    found = encoder.encode(texts, "text").values.numpy()
    assert _gap("texts with the package's method", found, wanted, capsys) < 1e-5


def test_fused_short_sounds_have_the_vectors_of_the_packages_own_method(
    fused: Any, fused_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds: list[Path] = [path for path in fused.sounds if path.suffix == ".wav" and path.stem != "long"]
    quantised = build("encoder", fused.config(fusion=True))
    with torch.inference_mode():
        wanted = _authors(fused_encoder, fusion=True).sounds(sounds)
    found = quantised.encode(sounds, "audio").values.numpy()
    assert _gap("sounds of a fused network with the package's method", found, wanted, capsys) < 1e-5
