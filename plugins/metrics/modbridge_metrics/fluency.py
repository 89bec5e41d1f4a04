"""FENSE's two models, loaded from this machine: the error detector and Sentence-BERT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from aac_metrics.functional.fer import BERTFlatClassifier, fer
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from modbridge.errors import SetupError
from modbridge_metrics.fluency_files import echecker_file, encoder_folder, sbert_folder

THRESHOLD = 0.9  # an error where the detector's probability is above it (FENSE, Zhou et al. 2022)
PENALTY = 0.9  # what an error takes off


def errors_of(captions: Sequence[str], echecker: str, device: str) -> list[float]:
    """1.0 for every caption that the detector calls faulty, else 0.0. Raises SetupError if it cannot be loaded."""
    path = echecker_file(echecker)
    try:
        detector, tokenizer = _detector(echecker)
        detector = detector.to(device)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SetupError(
            f"the error detector {path} cannot be used on {device}: {error}. Fetch it again with aac-metrics-download, "
            f"or set `device`."
        ) from error
    with torch.no_grad():
        _, items = fer(
            list(captions),
            echecker=detector,
            echecker_tokenizer=tokenizer,
            error_threshold=THRESHOLD,
            device=device,
        )
    return [float(flag) for flag in items["fer"]]


def sentence_model(name: str, device: str) -> SentenceTransformer:
    """The Sentence-BERT model of a name or folder. Raises SetupError if it cannot be loaded."""
    folder = sbert_folder(name)
    try:
        return SentenceTransformer(str(folder), device=device, local_files_only=True)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise SetupError(
            f"the Sentence-BERT model {name} in {folder} cannot be used on {device}: {error}. Fetch it again with "
            f"aac-metrics-download, or set `device`."
        ) from error


def _detector(name: str) -> tuple[BERTFlatClassifier, object]:
    """aac-metrics' detector with the checkpoint's weights, strictly all of them.

    Built here since aac-metrics' own loader unpickles the file and asks the hub for BERT's weights, only to replace
    them: here the file may hold tensors and plain values only, and BERT's config and tokenizer are read from disk.
    """
    held = torch.load(echecker_file(name), map_location="cpu", weights_only=True)
    folder = encoder_folder(held["model_type"])
    assert folder is not None, "callers ask config.missing() first"
    with torch.random.fork_rng(devices=[]):
        shapes = AutoConfig.from_pretrained(folder, local_files_only=True)
        encoder = AutoModel.from_config(shapes)  # type: ignore[no-untyped-call]
        detector = BERTFlatClassifier.__new__(BERTFlatClassifier)
        nn.Module.__init__(detector)
        detector.model_type, detector.num_classes = held["model_type"], held["num_classes"]
        detector.encoder = encoder
        detector.dropout = nn.Dropout(encoder.config.hidden_dropout_prob)
        detector.clf = nn.Linear(encoder.config.hidden_size, held["num_classes"])
    state = dict(held["state_dict"])
    state.pop("encoder.embeddings.position_ids", None)  # a buffer that transformers before 4.31 stored
    detector.load_state_dict(state)
    return detector.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
