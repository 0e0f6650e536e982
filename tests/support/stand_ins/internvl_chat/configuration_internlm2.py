"""The config of a stand-in for InternLM2: fields by their published names."""

from typing import Any

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"

    def __init__(
        self,
        vocab_size: int = 512,
        hidden_size: int = 128,
        intermediate_size: int = 192,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        hidden_act: str = "silu",
        max_position_embeddings: int = 4096,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-6,
        tie_word_embeddings: bool = False,
        bias: bool = True,
        rope_theta: float = 10000,
        rope_scaling: dict[str, Any] | None = None,
        attn_implementation: str | None = "eager",
        **more: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.bias = bias
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        self.attn_implementation = attn_implementation or "eager"
        self.published_rope = dict(rope_scaling or {})
        super().__init__(tie_word_embeddings=tie_word_embeddings, **more)

    def to_dict(self) -> dict[str, Any]:
        """As transformers 4.37 wrote it: 5 calls the rotation's fields `rope_parameters`."""
        made = super().to_dict()
        del made["rope_parameters"]
        return {**made, "rope_scaling": made.pop("published_rope") or None}
