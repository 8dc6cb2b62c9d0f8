"""State-dict names that published files have and today's models do not."""

from __future__ import annotations

import re

# Attention layers until diffusers 0.12 (2023), and so every community checkpoint of 2022.
_OLD_ATTENTION = re.compile(r"(\battentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def current_name(key: str) -> str:
    """Today's name of a tensor: `mid_block.attentions.0.query.weight` is `...to_q.weight`."""
    return _OLD_ATTENTION.sub(lambda match: f"{match[1]}.{_NEW_ATTENTION[match[2]]}.", key)
