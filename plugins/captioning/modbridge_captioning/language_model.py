"""Language models and tokenizers from the hub, from a folder, or fresh. Nothing half-loaded ever leaves this file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modbridge.errors import ArtefactError, DataError, SetupError
from modbridge_captioning.blocks import FreshLm
from modbridge_captioning.hub import from_hub

# Some LMs have more rows of embeddings than their tokenizer has tokens, for speed (Phi-2: 1.8 % more).
_PADDING_ROWS = 0.05


def fresh_lm(config: FreshLm, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A GPT-2 of the given shape for `tokenizer`, with weights from torch's current random state."""
    end = tokenizer.eos_token_id
    shape = config.model_dump()
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **shape))


def body_size(config: FreshLm) -> int:
    """The parameters of a GPT-2 of the given shape without its table of words."""
    with torch.device("meta"):
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=1, bos_token_id=0, eos_token_id=0, **config.model_dump()))
    return sum(p.numel() for p in lm.parameters()) - config.n_embd


def lm_of_shape(folder: Path) -> PreTrainedModel:
    """A causal LM of the shape that `folder`/config.json describes, to be filled with weights kept elsewhere.

    Raises ArtefactError if the description cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder} does not describe a causal language model: {error}") from error
    lm.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    lm.float().eval()  # type: ignore[no-untyped-call]
    return lm


def load_lm(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The pretrained causal LM `name` in float32 (or `dtype`), from its hub id or folder.

    Raises SetupError for a hub id that cannot be had, DataError for a folder that does not exist, ArtefactError for
    weights that are incomplete, broken, or not those of a causal LM that takes `inputs_embeds`.
    """
    loaded = _from_pretrained(
        AutoModelForCausalLM,
        name,
        what="language model",
        probes=("config.json",),
        dtype=dtype,
        use_safetensors=True,  # the other format is a pickle
        output_loading_info=True,
    )
    lm: PreTrainedModel = loaded[0]
    if getattr(lm, "_hf_peft_config_loaded", False):
        raise ArtefactError(
            f"the language model {name!r} is a peft adapter on top of another; expected a model of its own. Merge the "
            f"two (`merge_and_unload`), save the result, and give that folder."
        )
    absent = sorted({*loaded[1]["missing_keys"], *map(str, loaded[1]["mismatched_keys"])})
    if absent:
        raise ArtefactError(
            f"the language model {name!r} lacks {len(absent)} weights or has them in another shape ({absent[:3]}); "
            f"expected a complete one, since the rest would stay random. Download or save it again."
        )
    # A checkpoint's own sampling defaults (temperature, repetition penalty ...) would quietly join our generation.
    lm.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    lm.eval()  # type: ignore[no-untyped-call]
    _require_causal(lm, name)
    return lm


def load_tokenizer(name: str, lm: PreTrainedModel | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer `name`, from its hub id or folder, checked against the vocabulary of `lm`.

    Raises as `load_lm`; ArtefactError also for a tokenizer that is empty (transformers gives such ones for folders
    without tokenizer files), has no end-of-text token, or is not that of `lm`.
    """
    tokenizer: PreTrainedTokenizerBase = _from_pretrained(
        AutoTokenizer, name, what="tokenizer", probes=("tokenizer.json", "tokenizer.model", "vocab.json")
    )
    size = len(tokenizer)
    if size == len(set(tokenizer.all_special_ids)):
        raise ArtefactError(
            f"the tokenizer {name!r} holds {size} special tokens and nothing else; expected tokenizer.json, or "
            f"vocab.json and merges.txt, beside its config. Save the tokenizer there, or set tokenizer to where it is."
        )
    if tokenizer.eos_token_id is None:
        raise ArtefactError(
            f"the tokenizer {name!r} has no end-of-text token (eos_token); expected one, which ends every caption. "
            f"Set it in tokenizer_config.json."
        )
    rows = size if lm is None else token_embedding(lm).num_embeddings
    if not size <= rows <= size * (1 + _PADDING_ROWS):
        raise ArtefactError(
            f"the tokenizer {name!r} has {size} tokens, and the language model {rows}: they do not belong together. "
            f"Leave tokenizer out to take the language model's own, or give the one it was trained with."
        )
    return tokenizer


def own_ends(name: str) -> set[int]:
    """The tokens at which the LM `name`, loaded before, says itself that it ends: of some that were taught to chat the
    end of a turn is another than the tokenizer's end of text (Gemma)."""
    folder = Path(name).expanduser()
    try:
        found = GenerationConfig.from_pretrained(str(folder) if folder.exists() else name, local_files_only=True)
    except (OSError, ValueError):  # it says nothing of its own
        return set()
    ends = found.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def token_embedding(lm: PreTrainedModel) -> torch.nn.Embedding:
    """The LM's table of token embeddings."""
    table = lm.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    return table


def positions(lm: PreTrainedModel) -> int | None:
    """How many tokens the LM can take in, prefix included; None if it sets no limit."""
    limit = getattr(lm.config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def tied(module: torch.nn.Module) -> dict[str, str]:
    """Names in the module's state that are another name's very tensor (GPT-2's head is its token embedding)."""
    first: dict[int, str] = {}
    twins: dict[str, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        original = first.setdefault(id(tensor), name)
        if original != name:
            twins[name] = original
    return twins


def weights_hash(module: torch.nn.Module, named: Callable[[str], str | None] = str) -> str:
    """SHA-256 over names, shapes and values of a module's state. `named`: what a name counts as; None is not at all."""
    digest, twins = hashlib.sha256(), tied(module)
    state = {named(name): tensor for name, tensor in module.state_dict().items() if name not in twins}
    for name in sorted(name for name in state if name is not None):
        tensor = state[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over a tokenizer's tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def _from_pretrained(loader: Any, name: str, *, what: str, probes: Sequence[str], **options: Any) -> Any:
    folder = Path(name).expanduser()
    if not folder.exists() and (name[:1] in "./~" or name.count("/") > 1 or "\\" in name):
        raise DataError(f"the {what} folder {name!r} does not exist; give an existing folder, or a Hugging Face id.")
    local = folder.exists()

    def load(local_files_only: bool) -> Any:
        # Beside peft, transformers would ask the hub for an adapter, whatever `local_files_only` says.
        adapter = {"adapter_kwargs": {"local_files_only": local_files_only}} if loader is AutoModelForCausalLM else {}
        with torch.random.fork_rng(devices=[]):
            return loader.from_pretrained(
                str(folder) if local else name,
                local_files_only=local_files_only,
                **adapter,
                trust_remote_code=False,  # unset, transformers would ask at the terminal
                **options,
            )

    try:
        return load(True) if local else from_hub(load, name, probes, what)
    except SetupError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if local:
            raise ArtefactError(
                f"no {what} can be read from the folder {name!r}: {reason} Expected one that save_pretrained wrote, "
                f"with safetensors weights."
            ) from error
        raise SetupError(
            f"the {what} {name!r} is not to be had from Hugging Face: {reason} Check the spelling, fetch it beforehand "
            f"with `hf download {name}`, or give the path of a local copy."
        ) from error


def _require_causal(lm: PreTrainedModel, name: str) -> None:
    """Raise ArtefactError unless the LM looks only back (otherwise training would leak labels), and both reads
    embeddings and writes on from them."""
    before = token_embedding(lm).weight[:3].detach()[None]
    after = torch.cat([before[:, :2], before[:, :1]], dim=1)
    generate: Any = lm.generate
    try:
        with torch.inference_mode():
            first, second = (
                lm(inputs_embeds=x, use_cache=False, logits_to_keep=3).logits[0, 0] for x in (before, after)
            )
            generate(
                inputs_embeds=before,
                attention_mask=torch.ones(before.shape[:2], dtype=torch.long),
                generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                    max_new_tokens=1, do_sample=False, pad_token_id=0
                ),
            )
    except (TypeError, ValueError) as error:
        raise ArtefactError(
            f"the language model {name!r} does not take inputs_embeds ({str(error).splitlines()[0]}); expected a "
            f"decoder-only one that does, in training and in generation (GPT-2)."
        ) from error
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
        raise ArtefactError(
            f"the language model {name!r} ({type(lm).__name__}) looks at tokens ahead; expected a causal one (GPT-2)."
        )
