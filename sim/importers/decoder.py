"""A language model of Hugging Face's transformers at a context length: with its key-value cache as buffers.

A cache of `context` tokens is full but for the tokens that come in, which go behind what is there: one token is a step
of decoding at that context, as many as the context holds are the prefill. The buffers are written to in place, so they
are read as states.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from cosoc.sim.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def with_cache(module: nn.Module, context: int, tokens: int, name: str) -> nn.Module:
    """The model over the last `tokens` of `context`, as a module from token ids to its first result (the logits).

    Raises InputError for a module that takes no such cache, or fewer tokens of context than come in.
    """
    library: Any = sys.modules.get("transformers")
    takes = "past_key_values" in inspect.signature(module.forward).parameters
    if library is None or not takes or not hasattr(module, "config"):
        what = "--context is for models of transformers that take past_key_values"
        raise InputError(f"{name}: {what}; of others, a buffer that is written in place is a key-value cache")
    if tokens > context:
        raise InputError(f"{name}: {tokens} tokens come in, with --context {context}; the context holds them too")
    return _decoder(module, library, context, tokens, name)


def _decoder(model: Any, library: Any, context: int, tokens: int, name: str) -> nn.Module:
    import torch

    class Decoder(torch.nn.Module):
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            about = model.config.get_text_config(decoder=True)
            cache = library.StaticCache(config=model.config, max_cache_len=context)
            heads = getattr(about, "num_key_value_heads", None) or about.num_attention_heads
            width = getattr(about, "head_dim", None) or about.hidden_size // about.num_attention_heads
            like = next(model.parameters())
            for number, layer in enumerate(cache.layers):
                held = min(context, getattr(layer, "max_cache_len", context))
                for which in ("keys", "values"):
                    empty = torch.zeros(1, heads, held, width, dtype=like.dtype, device=like.device)
                    self.register_buffer(f"{which}_{number}", empty, persistent=False)
            self.cache = cache

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            for number, layer in enumerate(self.cache.layers):
                layer.keys, layer.values = self.get_buffer(f"keys_{number}"), self.get_buffer(f"values_{number}")
                layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
                layer.cumulative_length = torch.tensor(context - tokens, device=layer.device)
                layer.is_initialized = True
            found = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
            first: torch.Tensor = found.logits if hasattr(found, "logits") else found[0]
            return first

    try:
        return Decoder()
    except Exception as error:  # what a model lacks that others of its library have
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: no key-value cache can be made for it: {what}") from error
