"""A text judge of 0.1M parameters, trained in seconds on a planted rule, and the scorer file it was
trained with.
"""

import random
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dpo_video.core.names import shipped_names
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer

SCORES = {"dog": 5, "cat": 4, "bird": 3, "boat": 2, "cake": 1}
"""The rule: the score of an answer is that of its last word."""
CAPTION = "one of them plays."
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHORT_SCORER = """\
description: A short prompt, for tests.
mode: labels
labels: {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5}
prompt: |
  Caption: {caption}
  Question: {question}
  {answer}
reply_prefix: "Score: "
verdict: "Score: {label}"
threshold: 3
examples:
  - {reply: "Score: 4", score: 4}
"""


def write_scorer(folder: Path, text: str = SHORT_SCORER, name: str = "short") -> Path:
    """Write a scorer file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def tiny_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with a chat template that knows the words of the shipped
    scorers.
    """
    text = [load_scorer(name).prompt for name in shipped_names("scorers")]
    text += [
        f"Caption: {CAPTION} Question: what plays? > it is a {word}\nScore: 1\nVerdict: A"
        for word in SCORES
    ]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        text * 4,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )


def random_judge(folder: Path) -> Path:
    """Write a judge with random weights: its label probabilities are as good as any to compare."""
    tokenizer = tiny_tokenizer()
    model = _model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return _save(folder, model, tokenizer)


def trained_judge(folder: Path) -> Path:
    """Write a judge that answers `Score: N` to the short scorer's prompt by the rule in SCORES."""
    return _save(folder, _trained(), tiny_tokenizer())


@cache
def _trained() -> Qwen2ForCausalLM:
    with tempfile.TemporaryDirectory() as folder:
        scorer = load_scorer(str(write_scorer(Path(folder))))
        model = _model(tiny_tokenizer())
        _save(Path(folder), model, tiny_tokenizer())
        # For a Qwen2 checkpoint transformers 5 puts Qwen2's pre-tokenizer in the place of the saved
        # one: read it back.
        tokenizer, rng = AutoTokenizer.from_pretrained(folder), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    good = 0
    for _ in range(400):
        rows = []
        for _ in range(32):
            answer = rng.choice(list(SCORES))
            messages = render(
                scorer, caption=CAPTION, question="what plays?", answer=f"it is a {answer}"
            )
            prompt = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            rows.append(
                (
                    tokenizer(prompt, add_special_tokens=False)["input_ids"],
                    tokenizer(f"Score: {SCORES[answer]}<|im_end|>", add_special_tokens=False)[
                        "input_ids"
                    ],
                )
            )
        longest = max(len(prompt) + len(reply) for prompt, reply in rows)
        ids = torch.tensor([p + r + [0] * (longest - len(p) - len(r)) for p, r in rows])
        labels = torch.tensor(
            [[-100] * len(p) + r + [-100] * (longest - len(p) - len(r)) for p, r in rows]
        )
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        good = good + 1 if loss.item() < 0.01 else 0
        if good == 5:
            break
    assert good == 5, f"the tiny judge did not learn its rule: loss {loss.item():.3f}"
    return model


def _save(folder: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return model
