"""Odd replies: what a server may say among good ones, and that it costs its own score only."""

import json

from judge_server import completion, judge_server, make_items, steady
from test_judge import exported, write_run

from dpo_video.judge import judge
from dpo_video.judges.asking import KIND
from dpo_video.judges.backends import open_judge
from dpo_video.judges.scorer import load_scorer
from dpo_video.recipe import JudgeSettings
from dpo_video.recipe_file import load_recipe
from dpo_video.run import open_run

HOUND = load_scorer("hound_quality")
HALF = "\ud83d"


def _settings(url, **changes):
    defaults = {"backend": "openai", "model": "m", "base_url": url, "retries": 0, "concurrency": 4}
    return JudgeSettings(**defaults | changes)


def _stage(recipe, *overrides):
    with open_run(load_recipe(str(recipe), list(overrides))) as run:
        return judge(run)


def test_half_a_surrogate_pair_in_an_answer_or_a_reply_stops_nothing(tmp_path):
    """JSON can say it, UTF-8 cannot: in a request, in the store, and in judgments.jsonl it is U+FFFD."""
    items = make_items(8, text="answer {s}")
    odd = items[5][0].prompt

    def answer(prompt, attempt):
        return completion(f"The dog {HALF} is right.\nScore: 3") if odd in prompt else steady(prompt, attempt)

    with judge_server(answer) as server:
        recipe = write_run(tmp_path, items, server.url)
        candidates = tmp_path / "runs" / "r" / "candidates.jsonl"
        candidates.write_text(candidates.read_text().replace("answer 2", "answer 2" + json.dumps(HALF)[1:-1]))
        summary = _stage(recipe)
        assert (summary["scored"], summary["asked"]) == (8, 8), summary["reasons"]
        assert sum("answer 2\ufffd" in prompt for prompt in server.prompts) == 1
        assert _stage(recipe)["asked"] == 0
    assert exported(recipe)[5].reply == "The dog \ufffd is right.\nScore: 3"
    with open_run(load_recipe(str(recipe), [])) as run:
        assert len(list(run.store.rows(KIND))) == 8


def test_half_a_surrogate_pair_in_a_prompt_is_sent(tmp_path):
    """A scorer file can hold one, too: no reader of records has seen it."""
    with judge_server(lambda *_: completion("Score: 3")) as server, open_judge(_settings(server.url)) as opened:
        replies = []
        opened.ask(HOUND, [[{"role": "user", "content": HALF}]], lambda number, reply: replies.append(reply))
        assert server.prompts == [HALF]
    assert replies[0].status == "answered"
