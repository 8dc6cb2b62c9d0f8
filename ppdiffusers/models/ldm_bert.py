"""The text encoder of the text-to-image model: a transformer trained with it (arXiv 2112.10752, section 4.3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.config import FrozenConfig, register_to_config
from ppdiffusers.layers.activations import get_activation
from ppdiffusers.layers.attention import attend, merge_heads, split_heads
from ppdiffusers.layers.basic import Linear
from ppdiffusers.layers.shapes import sizes
from ppdiffusers.models.model import PICKLED_WEIGHTS, SAFE_WEIGHTS, Model
from ppdiffusers.outputs import Output


@dataclass
class TextEncoderOutput(Output):
    """`last_hidden_state`: `[B, T, d_model]`, what the U-Net attends to."""

    last_hidden_state: paddle.Tensor


class LDMBertAttention(nn.Layer):
    """Multi-head self-attention of `[B, T, d_model]`."""

    def __init__(self, config: FrozenConfig):
        super().__init__()
        self.heads, d_model = config.encoder_attention_heads, config.d_model
        inner = self.heads * config.head_dim
        self.q_proj = Linear(d_model, inner, bias_attr=False)
        self.k_proj = Linear(d_model, inner, bias_attr=False)
        self.v_proj = Linear(d_model, inner, bias_attr=False)
        self.out_proj = Linear(inner, d_model)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (split_heads(project(tokens), self.heads) for project in projections)
        return self.out_proj(merge_heads(attend(query, key, value)))


class LDMBertLayer(nn.Layer):
    """Attention and feed-forward, each normed in front and with a residual."""

    def __init__(self, config: FrozenConfig):
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.self_attn = LDMBertAttention(config)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.activation_fn = get_activation(config.activation_function)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        tokens = tokens + self.dropout(self.self_attn(self.self_attn_layer_norm(tokens)))
        return tokens + self.dropout(self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(tokens)))))


class LDMBertEncoder(nn.Layer):
    """Token and position embeddings, the layers, and a last norm."""

    def __init__(self, config: FrozenConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.LayerList([LDMBertLayer(config) for _ in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        positions = paddle.arange(sizes(input_ids)[1])
        tokens = self.dropout(self.embed_tokens(input_ids) + self.embed_positions(positions))  # [B, T, d_model]
        for layer in self.layers:
            tokens = layer(tokens)
        return self.layer_norm(tokens)


class LDMBertModel(Model):
    """Token numbers to the condition of a text-to-image U-Net.

    Every position is attended to, padding too: so it was trained. Arguments are the config keys of the
    published `bert/config.json`.

    Args:
        vocab_size: tokens.
        max_position_embeddings: the longest sequence.
        encoder_layers, encoder_ffn_dim, encoder_attention_heads: depth, width of the feed-forward, heads.
        head_dim: width of a head; need not be d_model / heads.
        d_model: width of the result.
        dropout: rate while training.
    """

    # Folders of transformers have names of their own.
    _weight_files = (SAFE_WEIGHTS, PICKLED_WEIGHTS, "model.safetensors", "pytorch_model.bin")
    _unused_weights = ("to_logits.",)  # a head for predicting tokens, which the Paddle port left out
    _legacy_config_keys = {
        **dict.fromkeys(("activation_dropout", "attention_dropout", "encoder_layerdrop"), "0 in published models"),
        **dict.fromkeys(("classifier_dropout", "init_std"), "of training; no result depends on it"),
        **dict.fromkeys(("scale_embedding", "use_cache", "pad_token_id"), "never read by this model"),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size"), "another name of a key here"),
        **dict.fromkeys(
            ("architectures", "model_type", "transformers_version", "paddlenlp_version", "return_dict"),
            "a note of the library that saved it",
        ),
        **dict.fromkeys(("dtype", "torch_dtype"), "type in the file; `paddle_dtype` chooses the one in memory"),
    }

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 30522,
        max_position_embeddings: int = 77,
        encoder_layers: int = 32,
        encoder_ffn_dim: int = 5120,
        encoder_attention_heads: int = 8,
        head_dim: int = 64,
        activation_function: str = "gelu",
        d_model: int = 1280,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.model = LDMBertEncoder(self.config)

    def forward(
        self, input_ids: paddle.Tensor, return_dict: bool = True
    ) -> Union[TextEncoderOutput, Tuple[paddle.Tensor]]:
        """
        Args:
            input_ids: token numbers, `[B, T]` with T up to `max_position_embeddings`.

        Raises:
            ValueError: a longer sequence.
        """
        longest = self.config.max_position_embeddings
        if paddle.in_dynamic_mode() and input_ids.shape[1] > longest:  # symbolic where it is exported
            raise ValueError(f"a text of {input_ids.shape[1]} tokens; this model reads at most {longest}: cut it")
        hidden_states = self._encode(input_ids)
        return TextEncoderOutput(last_hidden_state=hidden_states) if return_dict else (hidden_states,)

    def _encode(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        return self.model(input_ids)
