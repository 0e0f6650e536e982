"""Tiny models with a Q-Former: InstructBLIP for video."""

import torch
from tiny_models import make_tokenizer
from transformers import (
    InstructBlipVideoConfig,
    InstructBlipVideoForConditionalGeneration,
    InstructBlipVideoProcessor,
    InstructBlipVideoVideoProcessor,
    PreTrainedModel,
)

from tiny_families.parts import text_config
from tiny_families.videos import SIDE_56

QUERIES = 4


def instructblipvideo() -> tuple[PreTrainedModel, InstructBlipVideoProcessor]:
    """Return an InstructBLIP of 4 tokens a frame, on a tiny Llama."""
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<video>"], eos="</s>", pad="<pad>", bos="<s>"
    )
    reader = make_tokenizer(
        ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], eos="[SEP]", pad="[PAD]", bos="[CLS]"
    )
    config = InstructBlipVideoConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "initializer_range": 0.02,  # by default 1e-10: a model that sees nothing
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": len(reader),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 64,
            "cross_attention_frequency": 1,
        },
        text_config=text_config(tokenizer, "llama"),
        num_query_tokens=QUERIES,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = InstructBlipVideoProcessor(
        InstructBlipVideoVideoProcessor(**SIDE_56, do_center_crop=False),
        tokenizer,
        reader,
        num_query_tokens=QUERIES,
    )
    model = InstructBlipVideoForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)  # from 0, as they are made, nothing is asked
    return model, processor
