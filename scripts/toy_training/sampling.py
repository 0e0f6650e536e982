"""Sample answers from a saved policy the way any user would: processor, then generate."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dpo_video.toy.clips import FPS
from dpo_video.toy.questions import Question, draw_questions
from dpo_video.toy.scene import NUM_FRAMES, Scene
from toy_training.pool import FRAME_SETS, Pool


def sample_answers(
    folder: Path, heldout: Pool, *, num_answers: int, seed: int
) -> list[tuple[Scene, Question, str]]:
    """Return (scene, question, answer), `num_answers` for each of three questions a clip.

    One answer is greedy; more are drawn at temperature 1.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    rng, out = random.Random(seed), []
    torch.manual_seed(seed)
    frames = np.array(FRAME_SETS[0])
    metadata = {
        "total_num_frames": NUM_FRAMES,
        "fps": float(FPS),
        "duration": NUM_FRAMES / FPS,
        "frames_indices": frames.tolist(),
    }
    how = dict(do_sample=True, temperature=1.0, top_k=0, num_return_sequences=num_answers)
    for start in range(0, len(heldout.scenes), 20):
        rows = range(start, min(start + 20, len(heldout.scenes)))
        asked = [
            (n, q) for n in rows for q in draw_questions(heldout.scenes[n], rng, num_questions=3)
        ]
        chats = [
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": q.prompt}]}]
            for _, q in asked
        ]
        batch = processor(
            text=processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True),
            videos=[heldout.pixels[n][frames] for n, _ in asked],
            return_tensors="pt",
            text_kwargs={"padding": True, "padding_side": "left"},
            videos_kwargs={
                "video_metadata": [copy.deepcopy(metadata) for _ in asked],
                "do_sample_frames": False,
            },
        )
        with torch.no_grad():
            options = how if num_answers > 1 else {"do_sample": False}
            ids = model.generate(**batch, max_new_tokens=32, **options)
        said = processor.batch_decode(
            ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for k, text in enumerate(said):
            n, question = asked[k // num_answers]
            out.append((heldout.scenes[n], question, text.strip()))
    return out
