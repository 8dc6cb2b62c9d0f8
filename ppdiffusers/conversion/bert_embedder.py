"""The original's `BERTEmbedder`, an x-transformer, beside `LDMBertModel`.

Source of names: ldm/modules/encoders/modules.py and ldm/modules/x_transformer.py of CompVis/latent-diffusion.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from ppdiffusers.conversion.params import REQUIRED, read_params, require_equal
from ppdiffusers.conversion.rows import LINEAR, SAME, Rows
from ppdiffusers.models import LDMBertModel

NAME = "BERTEmbedder"
_HEADS, _HEAD_DIM = 8, 64  # of every x-transformer there, whatever its width

_KNOWN = {
    "n_embed": (int, REQUIRED),
    "n_layer": (int, REQUIRED),
    "vocab_size": (int, 30522),
    "max_seq_len": (int, 77),
    "use_tokenizer": (bool, True),
    "embedding_dropout": (float, 0.0),
}
UNUSED = ("transformer.to_logits.",)  # a head for predicting tokens


def reads_text(params: Any) -> bool:
    """Whether it is given texts, to tokenise by itself, and not token numbers."""
    return read_params(NAME, params, _KNOWN, {}, ("device",))["use_tokenizer"]


def to_config(params: Any) -> Tuple[Type[LDMBertModel], Dict[str, Any]]:
    """Our class and config.

    Raises:
        ConversionError: parameters that it does not have.
    """
    given = read_params(NAME, params, _KNOWN, {}, ("device",))
    return LDMBertModel, {
        "vocab_size": given["vocab_size"],
        "max_position_embeddings": given["max_seq_len"],
        "encoder_layers": given["n_layer"],
        "encoder_ffn_dim": 4 * given["n_embed"],
        "encoder_attention_heads": _HEADS,
        "head_dim": _HEAD_DIM,
        "d_model": given["n_embed"],
        "dropout": given["embedding_dropout"],
    }


def to_params(model: LDMBertModel) -> Dict[str, Any]:
    """What the yaml of the original gives `BERTEmbedder` for this model where it reads texts.

    Raises:
        ConversionError: a model that it cannot be.
    """
    config = model.config
    params = {
        "n_embed": config.d_model,
        "n_layer": config.encoder_layers,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_position_embeddings,
    }
    require_equal(NAME, LDMBertModel, config, to_config(params)[1], ("dropout",))
    return params


def rows(model: LDMBertModel) -> Rows:
    """The tensors of `BERTEmbedder`, under their names in it: attention and feed-forward count as layers there."""
    table = Rows(model)
    table.add("model.embed_tokens", "transformer.token_emb")
    table.add("model.embed_positions", "transformer.pos_emb.emb")
    for layer in range(model.config.encoder_layers):
        ours, layers = f"model.layers.{layer}", "transformer.attn_layers.layers"
        attention, feed_forward = f"{layers}.{2 * layer}", f"{layers}.{2 * layer + 1}"
        table.add(f"{ours}.self_attn_layer_norm", f"{attention}.0.0", SAME)
        for part, theirs in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")):
            table.add(f"{ours}.self_attn.{part}", f"{attention}.1.{theirs}", LINEAR)
        table.add(f"{ours}.final_layer_norm", f"{feed_forward}.0.0", SAME)
        table.add(f"{ours}.fc1", f"{feed_forward}.1.net.0.0", LINEAR)
        table.add(f"{ours}.fc2", f"{feed_forward}.1.net.2", LINEAR)
    table.add("model.layer_norm", "transformer.norm")
    return table.complete()
