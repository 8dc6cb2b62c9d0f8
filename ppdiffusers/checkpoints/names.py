"""State-dict names that published files have and today's models do not."""

from __future__ import annotations

import re

# Attention layers until diffusers 0.12 (2023), and so every community checkpoint of 2022. The
# transformers of the text-conditional U-Net have had today's names from the start.
_OLD_ATTENTION = re.compile(r"(\battentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# The community's Paddle port of LDMBertModel is built of Paddle's own TransformerEncoder. With
# the prefix it was saved from inside the masked language model.
_PORTED_BERT = re.compile(r"^(?:ldmbert\.)?(embeddings\.\w+_embeddings|final_layer_norm|encoder\.layers\.\d+\.\w+)\.")
_BERT_PARTS = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "final_layer_norm": "layer_norm",
}
_BERT_LAYER_PARTS = {
    "norm1": "self_attn_layer_norm",
    "norm2": "final_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
}


def current_name(key: str) -> str:
    """Today's name of a tensor: `mid_block.attentions.0.query.weight` is `...to_q.weight`."""
    key = _OLD_ATTENTION.sub(lambda match: f"{match[1]}.{_NEW_ATTENTION[match[2]]}.", key)
    return _PORTED_BERT.sub(lambda match: f"model.{_bert_name(match[1])}.", key)


def _bert_name(ported: str) -> str:
    if ported.startswith("encoder."):
        _, layers, number, part = ported.split(".")
        return f"{layers}.{number}.{_BERT_LAYER_PARTS.get(part, part)}"
    return _BERT_PARTS.get(ported, ported)
