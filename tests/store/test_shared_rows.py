"""A folder of the reference's log-probs that runs share: paid once, written by several, never
torn.
"""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tiny_world import make_pairs, make_recipe, make_world, open_run
from training import reward_margins

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import key_settings
from dpo_video.store import RunStore
from dpo_video.store.shared_rows import FILE, SharedRows
from dpo_video.train.checkpoints import training_key
from dpo_video.train.reference import KIND
from dpo_video.train.stage import train

WRITER = """
import sys
from pathlib import Path
from dpo_video.store.shared_rows import SharedRows

with SharedRows(Path(sys.argv[1])) as rows:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(200):
        rows.put("reference", f"k{number}", {"logps": [number, int(sys.argv[2])]})
        rows.put("reference", f"own{sys.argv[2]}-{number}", {"logps": [number]})
        rows.flush()
        assert rows.get("reference", [f"k{number}"])[f"k{number}"]["logps"][0] == number
"""


def test_processes_write_at_the_same_time_and_lose_nothing(tmp_path: Path) -> None:
    """Three writers begin together, with keys in common and of their own; the first value of a key
    stays.
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    said = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        said.append(writer.communicate()[1])
    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    with SharedRows(tmp_path) as rows:
        shared = rows.get(KIND, [f"k{number}" for number in range(200)])
        own = rows.get(
            KIND, [f"own{writer}-{number}" for writer in range(3) for number in range(200)]
        )
    assert len(shared) == 200 and len(own) == 600
    assert all(
        row["logps"][0] == int(key[1:]) and row["logps"][1] in (0, 1, 2)
        for key, row in shared.items()
    )


def test_the_first_value_of_a_key_stays(tmp_path: Path) -> None:
    with SharedRows(tmp_path) as rows:
        for value in (1.0, 2.0):
            rows.put(KIND, "k", {"logps": [value]})
            rows.flush()
        assert rows.get(KIND, ["k", "none"]) == {"k": {"logps": [1.0]}}


def run(recipe: Recipe, world: Path) -> tuple[list[float], list[str]]:
    """Train and measure held-out margins; return the first step's margin, and the kinds of rows in
    the run's store.
    """
    with RunStore(recipe.run_folder) as store:
        opened = open_run(recipe, store, world, make_pairs(4))
        train(opened)
        reward_margins(opened, make_pairs(4))
        first = json.loads((recipe.run_folder / "train_log.jsonl").read_text().splitlines()[0])
        kinds = [kind for kind in (KIND, "bad_clip") if any(store.rows(kind))]
        return [first["rewards/margins"]], kinds


def test_a_sweep_under_two_names_pays_once(tmp_path: Path) -> None:
    """The second run adds no row; a third one meets falsified values: it asks the folder, not the
    model.
    """
    world = make_world(tmp_path / "world", "qwen2_5_vl")
    folder = tmp_path / "shared"
    recipes = [
        make_recipe(world, name=f"beta{beta}", beta=beta, epochs=1, reference_folder=str(folder))
        for beta in (0.1, 0.5)
    ]
    assert run(recipes[0], world) == ([0.0], [])
    with SharedRows(folder) as rows:
        before = rows._rows._db.execute("select key, body from rows order by key").fetchall()
        assert len(before) >= 5
    assert run(recipes[1], world) == ([0.0], [])
    with SharedRows(folder) as rows:
        assert (
            rows._rows._db.execute("select key, body from rows order by key").fetchall() == before
        )
        rows._rows._db.execute("update rows set body = json_object('logps', json_array())")
    third = make_recipe(world, name="third", epochs=1, reference_folder=str(folder))
    with pytest.raises(AssertionError, match="differ in length"):
        run(third, world)


def test_the_folder_changes_where_and_not_what(tmp_path: Path) -> None:
    here, there = make_recipe(tmp_path), make_recipe(tmp_path, reference_folder="elsewhere")
    keys = [
        training_key(recipe, make_pairs(2), revision="r", num_processes=1)
        for recipe in (here, there)
    ]
    assert keys[0] == keys[1] and key_settings(here) == key_settings(there)


def test_a_folder_that_cannot_be_used_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"train\.reference_folder.*Give a folder on a disk"):
        SharedRows(tmp_path / "file" / "below")
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"is damaged \(file is not a database\).*move it away"):
        SharedRows(tmp_path)


def test_a_folder_of_an_earlier_version_is_read_and_written(tmp_path: Path) -> None:
    """Its table had no stages beside it, and no rowid."""
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute(
            "create table rows (kind text, key text, body text, primary key (kind, key)) "
            "without rowid"
        )
        database.execute("insert into rows values ('reference', 'old', '{\"logps\": [1.0]}')")
    with SharedRows(tmp_path) as rows:
        rows.put(KIND, "new", {"logps": [2.0]})
        rows.flush()
        assert rows.get(KIND, ["old", "new"]) == {"old": {"logps": [1.0]}, "new": {"logps": [2.0]}}
        assert list(rows.keys(KIND)) == ["new", "old"]
        assert rows.known(KIND, ["old", "none"]) == {"old"}
