"""Prompts asked of a judge server, and the replies to them."""

from judge_server import completion

from dpo_video.judge.backends.registry import open_judge
from dpo_video.judge.scorer import load_scorer
from dpo_video.judge.stage import judge
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run

HOUND = load_scorer("hound_quality")


def server_settings(url, **changes):
    defaults = {"backend": "openai", "model": "m", "base_url": url, "retries": 3, "concurrency": 4}
    return JudgeSettings(**defaults | changes)


def replies_of(url, prompts=("p0", "p1", "p2"), scorer=HOUND, **changes):
    replies = {}
    with open_judge(server_settings(url, **changes)) as judge:
        judge.ask(
            scorer,
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            replies.__setitem__,
        )
    return [replies[index] for index in range(len(prompts))]


def settings_of_one_try(url, **changes):
    defaults = {"backend": "openai", "model": "m", "base_url": url, "retries": 0, "concurrency": 4}
    return JudgeSettings(**defaults | changes)


def user_message(text):
    return [{"role": "user", "content": text}]


def judge_counts(recipe):
    with open_run(load_recipe(str(recipe), [])) as run:
        return dict(judge(run).counts)


USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 400},
}


PRICES = "m: {input: 1.0, output: 4.0, cached: 0.25}\n"


CALL = (600 * 1.0 + 400 * 0.25 + 100 * 4.0) / 1e6
"""US dollars for a reply with USAGE at PRICES: 0.0011."""


def answer_with_usage(prompt, attempt):
    return completion("Score: 4", usage=USAGE)
