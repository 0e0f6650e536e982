"""A stand-in for VideoLLAMA, its vision branch: the tower, Q-Formers and projection by their
published names, and a forward over embeddings as the published one puts them together.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.randn(dim) / 8)
        self.v_bias = nn.Parameter(torch.randn(dim) / 8)
        self.proj = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = nn.functional.linear(states, self.qkv.weight, bias)
        query, key, value = parts.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(states)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, inner)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attn(self.norm1(states))
        return states + self.mlp(self.norm2(states))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)


class VisionTransformer(nn.Module):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        dim, patch = sizes["hidden_size"], sizes["patch_size"]
        count = (sizes["image_size"] // patch) ** 2
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, count + 1, dim) / 4)
        self.patch_embed = PatchEmbed(dim, patch)
        self.blocks = nn.ModuleList(
            Block(dim, sizes["num_attention_heads"], sizes["intermediate_size"])
            for _ in range(sizes["num_hidden_layers"])
        )

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed.proj(image).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(patches), -1, -1)
        states = torch.cat([first, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        return states


class BertSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(width, dim)
        self.value = nn.Linear(width, dim)

    def forward(self, states: Tensor, source: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(states), self.key(source), self.value(source))
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    def __init__(self, inner: int, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(states) + residual)


class BertAttention(nn.Module):
    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(dim, heads, width)
        self.output = BertOutput(dim, dim)

    def forward(self, states: Tensor, source: Tensor) -> Tensor:
        return self.output(self.self(states, source), states)


class BertIntermediate(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, inner)


class BertLayer(nn.Module):
    def __init__(self, sizes: dict[str, int], number: int) -> None:
        super().__init__()
        dim, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.attention = BertAttention(dim, heads, dim)
        if number % sizes["cross_attention_frequency"] == 0:
            self.crossattention = BertAttention(dim, heads, sizes["encoder_hidden_size"])
        self.intermediate_query = BertIntermediate(dim, sizes["intermediate_size"])
        self.output_query = BertOutput(sizes["intermediate_size"], dim)

    def forward(self, states: Tensor, source: Tensor) -> Tensor:
        states = self.attention(states, states)
        if hasattr(self, "crossattention"):
            states = self.crossattention(states, source)
        inner = nn.functional.gelu(self.intermediate_query.dense(states))
        return self.output_query(inner, states)


class BertModel(nn.Module):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        norm = nn.LayerNorm(sizes["hidden_size"], eps=1e-12)
        self.embeddings = nn.ModuleDict({"LayerNorm": norm})
        layers = [BertLayer(sizes, number) for number in range(sizes["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, query_embeds: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        states = self.embeddings["LayerNorm"](query_embeds)
        for layer in self.encoder["layer"]:
            states = layer(states, encoder_hidden_states)
        return states


class BertLMHeadModel(nn.Module):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.bert = BertModel(sizes)


class VideoLLAMA(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vision, frames = config["vision_config"], config["qformer_config"]
        clip = config["video_qformer_config"]
        self.visual_encoder = VisionTransformer(vision)
        self.ln_vision = nn.LayerNorm(vision["hidden_size"])
        self.Qformer = BertLMHeadModel({**frames, "encoder_hidden_size": vision["hidden_size"]})
        self.query_tokens = nn.Parameter(
            torch.randn(1, config["num_query_tokens"], frames["hidden_size"])
        )
        self.video_frame_position_embedding = nn.Embedding(
            config["max_frame_pos"], frames["hidden_size"]
        )
        self.video_Qformer = BertLMHeadModel(clip)
        self.video_query_tokens = nn.Parameter(
            torch.randn(1, config["num_video_query_tokens"], clip["hidden_size"])
        )
        self.llama_model = LlamaForCausalLM(LlamaConfig(**config["text_config"]))
        self.llama_proj = nn.Linear(clip["hidden_size"], config["text_config"]["hidden_size"])

    def encode_videoQformer_visual(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of clips (b, c, t, h, w), and their mask."""
        batch, _, time = image.shape[:3]
        frames = image.transpose(1, 2).flatten(0, 1)
        embeds = self.ln_vision(self.visual_encoder(frames))
        queries = self.query_tokens.expand(len(embeds), -1, -1)
        hidden = self.Qformer.bert(query_embeds=queries, encoder_hidden_states=embeds)
        places = self.video_frame_position_embedding(torch.arange(time))[None, :, None]
        hidden = (hidden.unflatten(0, (batch, time)) + places).flatten(1, 2)
        queries = self.video_query_tokens.expand(batch, -1, -1)
        video = self.video_Qformer.bert(query_embeds=queries, encoder_hidden_states=hidden)
        inputs = self.llama_proj(video)
        return inputs, torch.ones(inputs.shape[:-1], dtype=torch.long)

    def context_emb(self, segments: list[Tensor], image: Tensor) -> Tensor:
        """Return the embeddings of texts with the clip between them, as Chat.get_context_emb."""
        before, behind = (self.llama_model.model.embed_tokens(ids[None]) for ids in segments)
        return torch.cat([before, self.encode_videoQformer_visual(image)[0], behind], dim=1)

    def prepare_inputs_for_generation(self, *values: Any, **named: Any) -> Any:
        """Not published: PEFT asks each causal model for it."""
        return self.llama_model.prepare_inputs_for_generation(*values, **named)
