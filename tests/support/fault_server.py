"""Faults that a judge server shows, each a fixed function of the prompt and of how often that
prompt came.
"""

import hashlib
from collections.abc import Callable

from judge_server import Answer, completion, failure, steady

MOST_IN_A_ROW = 2
"""Faults that one prompt meets before it is answered."""


def passing_faults(stall: float) -> dict[str, Callable[[str, int], Answer]]:
    """Return the faults that a later attempt does not meet; a stalled reply is dropped after
    `stall` seconds.
    """
    return {
        "429 with Retry-After": lambda *_: failure(
            429, "slow down", headers={"retry-after": "0.05"}
        ),
        "429 without Retry-After": lambda *_: failure(429, "slow down"),
        "500": lambda *_: failure(500, "internal error"),
        "503 while it starts": lambda *_: failure(503, "the model is loading"),
        "dropped connection": lambda *_: Answer(drop=True),
        "stall": lambda prompt, n: Answer(body=steady(prompt, n).body, stall=stall),
        "cut connection": lambda prompt, n: Answer(body=steady(prompt, n).body, stall=0.0),
        "truncated JSON": lambda *_: Answer(body='{"choices": [{"message": {"content": "Score: 5'),
        "garbage JSON": lambda *_: Answer(
            body="<html>502 Bad Gateway</html>", headers={"content-type": "text/html"}
        ),
        "no choices": lambda *_: Answer(body={"id": "x", "choices": []}),
    }


def fault_of(prompt: str, attempt: int, *, share: float = 0.25) -> str | None:
    """Return the name of the fault that this attempt meets, or None; about `share` of first
    attempts meet one.
    """
    if attempt > MOST_IN_A_ROW:
        return None
    digest = hashlib.sha256(f"{attempt} {prompt}".encode()).digest()
    if digest[0] >= share * 256:
        return None
    names = list(passing_faults(0.0))
    name = names[digest[1] % len(names)]
    return "500" if name == "stall" and digest[2] % 4 else name  # stalls take long: fewer of them


def faulty(*, stall: float) -> Callable[[str, int], Answer]:
    """Return how a server answers that fails now and then, and gives every prompt its own score in
    the end.
    """
    faults = passing_faults(stall)

    def answer(prompt: str, attempt: int) -> Answer:
        name = fault_of(prompt, attempt)
        return steady(prompt, attempt) if name is None else faults[name](prompt, attempt)

    return answer


def slow_start(
    answer: Callable[[str, int], Answer], *, requests: int = 2
) -> Callable[[str, int], Answer]:
    """Return a server that says for its first requests that it is not ready."""
    left = [requests]

    def wait(prompt: str, attempt: int) -> Answer:
        if left[0] > 0:
            left[0] -= 1
            return failure(503, "the model is loading", headers={"retry-after": "0.1"})
        return answer(prompt, attempt)

    return wait


def ignores_logprobs(prompt: str, attempt: int) -> Answer:
    """Answer 200 without the label probabilities that were asked for, as `transformers serve`
    does.
    """
    return completion("Verdict: A")


def answers_as_another(prompt: str, attempt: int) -> Answer:
    """Answer in full, as a model that was not asked for."""
    given = completion("Verdict: A", top={"A": -0.1, "B": -2.4})
    assert isinstance(given.body, dict)
    return Answer(body={**given.body, "model": "another-model"})
