"""An example for the help of every command."""

import typer

EXAMPLES = {
    "generate": "dpo-video generate mine generate.num_candidates=8",
    "judge": "dpo-video judge mine --batch-out batch.jsonl",
    "pair": "dpo-video pair mine pair.min_margin=2",
    "train": "accelerate launch --num_processes 2 -m dpo_video train mine",
    "evaluate": "dpo-video evaluate mine",
    "run": "dpo-video run quickstart",
    "agree": "dpo-video agree runs/mine --gold gold.jsonl --require 'pair_accuracy>=0.75'",
    "check": "dpo-video check mine",
    "doctor": "dpo-video doctor mine",
    "audit": "dpo-video audit runs/mine",
    "rewards": "dpo-video rewards runs/mine --out rewards.jsonl",
    "report": "dpo-video report runs/mine",
    "review": "dpo-video review runs/mine",
    "frames": "dpo-video frames clip.mp4 --family qwen2_5_vl",
    "import": "dpo-video import trl prefs.jsonl --out pairs.jsonl --video-root clips",
    "export": "dpo-video export trl runs/mine --out prefs.jsonl",
    "push": "dpo-video push runs/mine --repo mine-dpo card.license=apache-2.0",
    "score": "dpo-video score set.jsonl answers.jsonl",
    "status": "dpo-video status runs/mine --watch",
    "runs": "dpo-video runs",
    "compare": "dpo-video compare runs/mine runs/other",
    "clean": "dpo-video clean runs/mine",
    "init": "dpo-video init mine.yaml --from qwen2_5_vl_3b",
    "show": "dpo-video show quickstart --explain",
    "list": "dpo-video list scorers",
    "merge": "dpo-video merge runs/mine --out merged",
    "family": "dpo-video family test my_family.py --model ./checkpoint --trust-remote-code",
    "parity": "dpo-video parity runs/mine --base-url http://localhost:8000/v1 --model tuned",
}


def add_examples(app: typer.Typer) -> None:
    """Give every command its example, and a line for the list of commands that is not cut."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        command.epilog = f"Example: {EXAMPLES[name]}"
        text = " ".join((command.callback.__doc__ or "").split())
        command.short_help = text.partition(". ")[0].rstrip(".")
