"""Tokenizers and chat templates of the toy models: byte-level BPE, one token a world word."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dpo_video.toy.questions import all_questions, caption
from dpo_video.toy.scene import COLOURS, SHAPES, draw_scene

CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_SPECIALS = (
    *CHATML_SPECIALS,
    *(f"<|{w}|>" for w in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")),
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA_SPECIALS = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>")
VICUNA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ':' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ ' <image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ ' <video>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def world_corpus(seed: int) -> list[str]:
    """Return captions, questions and answers that hold every word of the world many times."""
    rng = random.Random(seed)
    lines = [f"There is also a {c} {s}. a {c} {s}," for c in COLOURS for s in SHAPES] * 3
    for _ in range(400):
        scene = draw_scene(rng)
        lines.append(caption(scene, rng))
        lines.extend(f"{q.prompt}\n{q.answer}\n {q.answer}" for q in all_questions(scene))
    return lines + ["USER: ASSISTANT:", "user", "assistant", "system"] * 50


def train_tokenizer(
    corpus: Sequence[str], *, specials: Sequence[str], eos: str, pad: str, vocab_size: int
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the full byte alphabet, trained on a corpus."""
    bpe = Tokenizer(models.BPE())
    # Digits and a verdict's letter stand alone, so a label is one token with or without its prefix.
    alone = pre_tokenizers.Split(Regex(r"[0-9]|(?<=Verdict: )[A-Z]"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([alone, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    vicuna = specials[0] == "<unk>"
    extra = {"image_token": "<image>", "video_token": "<video>"} if vicuna else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",
        model_max_length=4096,
        **(
            {"bos_token": "<s>", "unk_token": "<unk>", "extra_special_tokens": extra}
            if vicuna
            else {}
        ),
    )
