"""The `florence2_query` encoder: VLV's own, over transformers' native Florence-2."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoTokenizer, Florence2ForConditionalGeneration

from modbridge.interfaces.component import BuildContext
from modbridge.training import derived_seed
from modbridge_vlv.florence2_query_config import Florence2QueryConfig
from modbridge_vlv.pretrained import Named, Prepare, drawn, processed, small_prepare
from modbridge_vlv.queries import projector
from modbridge_vlv.taught import TaughtEncoder


class _Queries(torch.nn.Module):
    """Learned vectors (n, W) in the place of the decoder's words, and the projector behind it."""

    def __init__(self, queries: int, width: int, soft: int) -> None:
        super().__init__()
        self.queries = torch.nn.Parameter(torch.randn(queries, width))
        self.projector = projector(width, soft)


class Florence2Query(TaughtEncoder[Florence2QueryConfig]):
    """Soft tokens (B, n, D), float32.

    The image's states and the prompt's words go through Florence-2's encoder, the queries through its decoder under its
    own causal mask. The vision side of a pretrained model is not kept in the artefact.
    """

    def __init__(self, config: Florence2QueryConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self._named = Named(config.model, config.revision) if isinstance(config.model, str) else None
        self._prepare = self._preparing()
        self.model = self._network().to(self.device)
        self.model.requires_grad_(self._named is None)
        self.model.language_model.requires_grad_(True)
        self._prompt = self._prompt_ids()
        width = int(self.model.config.text_config.hidden_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("florence2_query", self.context.seed))
            self._queries = _Queries(config.queries, width, self._teacher.width).to(self.device).eval()

    def pixels(self, item: Any) -> torch.Tensor:
        return self._prepare(item)

    def read(self, pixels: torch.Tensor) -> torch.Tensor:
        model, queries = self.model, self._queries
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._named is None):
            seen = model.get_image_features(pixel_values=pixels).pooler_output
        words = model.get_input_embeddings()(self._prompt).expand(len(pixels), -1, -1)
        found = model.language_model(
            inputs_embeds=torch.cat([seen, words], dim=1),
            decoder_inputs_embeds=queries.queries.expand(len(pixels), -1, -1),
            use_cache=False,
        )
        soft: torch.Tensor = queries.projector(found.last_hidden_state)
        return soft

    def modules(self) -> dict[str, torch.nn.Module]:
        """What is trained: of a pretrained model its language model alone."""
        whole = {"model": self.model} if self._named is None else {"language_model": self.model.language_model}
        return {"queries": self._queries, **whole}

    def frozen(self) -> dict[str, str]:
        return {} if self._named is None else {"vision tower": self.config.model_identity()}

    def _network(self) -> Any:
        if self._named is not None:
            return self._named.network(Florence2ForConditionalGeneration).model
        assert isinstance(self.config.model, dict)
        settings = {name: value for name, value in self.config.model.items() if name != "image_size"}
        seed = derived_seed("florence2_query model", self.context.seed)
        return drawn(Florence2ForConditionalGeneration, {"model_type": "florence2", **settings}, seed).model

    def _preparing(self) -> Prepare:
        if self._named is not None:
            return processed(self._named.processor())
        assert isinstance(self.config.model, dict)
        return small_prepare(int(self.config.model["image_size"]))

    def _prompt_ids(self) -> torch.Tensor:
        """The prompt's token ids (1, T); none of a small model."""
        if self._named is None:
            return torch.zeros(1, 0, dtype=torch.long, device=self.device)
        tokenizer: Any = self._named.part(AutoTokenizer, "tokenizer_config.json")
        ids: torch.Tensor = tokenizer(self.config.prompt, return_tensors="pt")["input_ids"]
        return ids.to(self.device)
