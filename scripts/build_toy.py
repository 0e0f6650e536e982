"""Build the tiny checkpoints in dpo_video/toy/checkpoints from nothing but a seed.

    python scripts/build_toy.py {qwen2_5_vl,llava_next_video,judge,pairwise_judge,all}
        [--seed N] [--out DIR] [--work DIR]

One CPU thread each. Minutes are printed and stored in toy.json beside the weights.
"""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from toy_training import agreement as agreeing  # noqa: E402
from toy_training import checkpoints, comparing, policies, pool  # noqa: E402
from toy_training import judge_training as judging  # noqa: E402
from toy_training import policy_training as training  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from dpo_video.toy.models import CHECKPOINTS  # noqa: E402
from dpo_video.toy.questions import Question, draw_questions  # noqa: E402
from dpo_video.toy.scene import Scene, SplitName  # noqa: E402

NUM_CLIPS = 6000
NUM_HELDOUT = 200
MISLED = (
    "The last stage trains on a mix of right answers and a sloppy annotator's language prior "
    "(toy_training/sloppy.py). It stands for the noisy supervision that real models get."
)


def build_policy(name: str, folder: Path, *, seed: int, deadline: float, work: Path) -> None:
    """Train a policy stage by stage, save it, and measure what was saved on held-out scenes."""
    policy = policies.POLICIES[name](seed)
    course = training.Course(
        policy=policy,
        pool=clip_pool(work, NUM_CLIPS, seed=seed, part="pretrain"),
        seed=seed,
        deadline=deadline,
    )
    heldout = clip_pool(work, NUM_HELDOUT, seed=seed, part="heldout")
    facts: dict[str, Any] = {"seed": seed, "steps": {}, "minutes": {}, "training": MISLED}
    parts = {"model": policy.model, "heads": course.heads}
    for stage in training.STAGES[name]:
        done = run_stage(
            work / f"{name}-{seed}-{stage.name}.pt",
            parts,
            lambda stage=stage: training.train_stage(course, stage),
        )
        facts["steps"][stage.name], facts["minutes"][stage.name] = done
        if stage.name == "learn":
            facts["ability_before_misleading"] = training.measure(policy, heldout, seed=seed)
            print(facts["ability_before_misleading"]["all"], flush=True)
    checkpoints.save(folder, model=policy.model, reader=policy.processor)
    AutoProcessor.from_pretrained(folder)
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    policy.model.float().load_state_dict(saved.state_dict())
    facts["heldout_accuracy"] = training.measure(policy, heldout, seed=seed)
    checkpoints.write_metadata(folder, model=saved, facts=facts)
    for kind, values in facts["heldout_accuracy"].items():
        print(f"{name} {kind}: {values}")


def clip_pool(work: Path, num_clips: int, *, seed: int, part: SplitName) -> pool.Pool:
    """Return the clips of a part, kept in a file for the next policy."""
    file = work / f"pool-{part}-{num_clips}-{seed}.pkl"
    if file.exists():
        return pickle.loads(file.read_bytes())
    made = pool.make_pool(num_clips, seed=seed, part=part)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(made))
    return made


def run_stage(
    file: Path, parts: dict[str, torch.nn.Module], train: Callable[[], int]
) -> tuple[int, float]:
    """Return steps and minutes of a stage: trained now, or read from its file if it was."""
    if file.exists():
        state = torch.load(file)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        print(f"read {file}")
    else:
        begun = time.time()
        steps = train()
        minutes = round((time.time() - begun) / 60, 1)
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"steps": steps, "minutes": minutes}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file)
    return state["steps"], state["minutes"]


def build_judge(folder: Path, *, seed: int, deadline: float, work: Path) -> None:
    """Train the judge, save it, and measure its agreement with gold on held-out scenes."""
    model, tok = judging.build_judge(seed)
    facts: dict[str, Any] = {"seed": seed, "steps": {}, "minutes": {}}
    for stage in judging.STAGES:
        facts["steps"][stage.name], facts["minutes"][stage.name] = run_stage(
            work / f"judge-{seed}-{stage.name.replace(' ', '_')}.pt",
            {"model": model},
            lambda stage=stage: judging.train_judge(
                model, tok, stage, seed=seed, deadline=deadline
            ),
        )
    checkpoints.save(folder, model=model, reader=tok)
    tok = AutoTokenizer.from_pretrained(folder)
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    heldout = pool.make_pool(60, seed=seed, part="heldout")
    agreement = {"written_candidates": agreeing.agreement(saved, tok, written(heldout, seed))}
    for name in policies.POLICIES:
        if (folder.parent / name / "model.safetensors").exists():
            items = sampled(folder.parent / name, name, heldout, seed)
            agreement[f"sampled_by_{name}"] = agreeing.agreement(saved, tok, items)
    facts["agreement_with_gold"] = agreement
    checkpoints.write_metadata(folder, model=saved, facts=facts)
    for name, values in agreement.items():
        print(f"judge {name}: {values}")


def build_pairwise_judge(folder: Path, *, seed: int, deadline: float, work: Path) -> None:
    """Teach the saved judge to compare and to tell coverage; save it beside it, and measure both
    trades.
    """
    model = AutoModelForCausalLM.from_pretrained(folder.parent / "judge", dtype=torch.float32)
    tok = AutoTokenizer.from_pretrained(folder.parent / "judge")
    torch.manual_seed(seed)
    comparing.learn_lines(model, tok)
    seconds = min(60 * comparing.MINUTES, deadline - time.time())
    steps, minutes = run_stage(
        work / f"pairwise_judge-{seed}.pt",
        {"model": model},
        lambda: comparing.train(model, tok, comparing.Mix(), seed=seed, seconds=seconds),
    )
    checkpoints.save(folder, model=model, reader=tok)
    measure_pairwise_judge(
        folder,
        seed=seed,
        facts={
            "seed": seed,
            "steps": {"pairs": steps},
            "minutes": {"pairs": minutes},
            "from": "judge",
        },
    )


def measure_pairwise_judge(folder: Path, *, seed: int, facts: dict[str, Any]) -> None:
    """Write toy.json of a saved pairwise judge: the facts, and its agreement with gold on held-out
    scenes.
    """
    tok = AutoTokenizer.from_pretrained(folder)
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    heldout = pool.make_pool(60, seed=seed, part="heldout")
    agreement: dict[str, Any] = {}
    for source in ("written_candidates", *(f"sampled_by_{name}" for name in policies.POLICIES)):
        name = source.removeprefix("sampled_by_")
        items = (
            written(heldout, seed)
            if source == name
            else sampled(folder.parent / name, name, heldout, seed)
        )
        agreement[source] = agreeing.agreement(saved, tok, items) | comparing.comparing_agreement(
            saved, tok, items
        )
        checkpoints.write_metadata(
            folder, model=saved, facts=facts | {"agreement_with_gold": agreement}
        )
        print(f"pairwise_judge {source}: {agreement[source]}", flush=True)


def written(heldout: pool.Pool, seed: int) -> list[tuple[Scene, Question, str]]:
    """Return candidates of every quality on held-out scenes."""
    from toy_training.judge_data import candidate

    rng = random.Random(seed)
    questions = [(s, q) for s in heldout.scenes for q in draw_questions(s, rng, num_questions=3)]
    return [(s, q, candidate(s, q, rng)) for s, q in questions for _ in range(4)]


def sampled(
    folder: Path, name: str, heldout: pool.Pool, seed: int
) -> list[tuple[Scene, Question, str]]:
    """Return answers that a saved policy samples on held-out scenes at temperature 1."""
    from toy_training.sampling import sample_answers

    return sample_answers(folder, heldout, num_answers=4, seed=seed)


def main() -> None:
    """Build one checkpoint, or all: policies first, as the judge is measured on them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=[*CHECKPOINTS, "all"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "dpo_video" / "toy" / "checkpoints")
    parser.add_argument("--minutes", type=float, default=60, help="stop training after this long")
    parser.add_argument(
        "--work", type=Path, help="folder that keeps finished stages; reused if there"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as spare:
        for name in CHECKPOINTS if given.name == "all" else [given.name]:
            build = BUILDERS.get(name) or partial(build_policy, name)
            build(
                given.out / name,
                seed=given.seed,
                deadline=time.time() + 60 * given.minutes,
                work=given.work or Path(spare),
            )
            print(f"wrote {given.out / name}")


BUILDERS = {"judge": build_judge, "pairwise_judge": build_pairwise_judge}

if __name__ == "__main__":
    main()
