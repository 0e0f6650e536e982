"""YAML as models: every problem with its file, line and key, and no file that stops the program."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from dpo_video.core.errors import UserError
from dpo_video.core.yaml_file import load, read_value, read_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(gt=0)
    """Frames a second."""
    size: int | None = None


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner
    names: dict[str, Inner] = {}
    anything: dict[str, object] = {}


def problems_of(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load(path, Outer, expected="an outer is a mapping")
    return str(error.value).splitlines()


def test_all_problems_are_told_with_their_lines_unknown_keys_first(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    told = problems_of(path, "names:\n  x: {rat: 1}\n  y:\n    rate: -1\ninner:\n  rate: 1\n")
    assert told == [
        f"{path}:2: unknown key `names.x.rat`. Did you mean 'rate'? Known keys: rate, size",
        f"{path}:4: `names.y.rate` must be greater than 0, got -1",
        f"{path}:2: missing `names.x.rate`. Frames a second.",
    ]


def test_a_mapping_of_models_is_read_like_a_model(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: {rate: 2.5}\n")
    loaded = load(tmp_path / "a.yaml", dict[str, Inner], expected="a mapping")
    assert loaded == {"x": Inner(rate=2.5)}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (BOMB, 6, "written out this stands for more than 100,000 values"),
        ("x: 1\ninner: &a\n  inner: *a\n", 2, "or it holds itself"),
        ("inner: " + "[" * 5000 + "]" * 5000, 1, "nested deeper than 50 levels"),
        ("inner: " + "[" * 200_000, 1, "nested deeper than 50 levels"),
        ("inner: " + "[" * 60 + "]" * 60, 1, "nested deeper than 50 levels"),
        ("x: 1\ninner: " + "9" * 5000, 2, "not YAML: Exceeds the limit"),
        ("x: 1\ninner: 2026-13-45\n", 2, "not YAML: month must be in 1..12"),
        ("x: 1\ny: a\0b\n", 2, "the character U+0000 may not stand in it"),
        ("x: 1\n\ny: \x1b[31m\n", 3, "the character U+001B may not stand in it"),
        ("inner: {rate: .inf}\n", 1, "`inner.rate` must be a finite number, got inf"),
        (
            "inner: {rate: 1}\nanything:\n  a: [0, .nan]\n",
            3,
            "`anything.a.1` must be a finite number, got nan",
        ),
        (
            "inner: {rate: 1}\nanything: {a: 1e999}\n",
            2,
            "`anything.a` must be a finite number, got inf",
        ),
        ("inner: {rate: 1}\ninner: {rate: 2}\n", 2, "`inner` stands twice, first at"),
        ("inner: {rate: " + "'" + "x" * 5000 + "'}\n", 1, "xxx.. (5,002 characters)"),
        ("- 1\n", 1, "an outer is a mapping"),
        ("", 1, "an outer is a mapping"),
    ],
)
def test_a_file_that_is_none_of_settings_is_one_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = tmp_path / "a.yaml"
    (told,) = problems_of(path, text)
    assert told.startswith(f"{path}:{line}: ") and message in told


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "&a [*a]", "{", "\0"])
def test_a_value_that_is_no_yaml_names_where_it_was_given(text: str) -> None:
    with pytest.raises(UserError, match=r"^override 'x': "):
        read_value(text, "override 'x'")


def test_a_folder_and_binary_data_are_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        read_yaml(tmp_path, expected="")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_yaml(tmp_path / "b.yaml", expected="")


def test_aliases_that_stand_for_little_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("inner: &a {rate: 1}\nnames: {x: *a, y: *a}\n")
    loaded = load(tmp_path / "a.yaml", Outer, expected="")
    assert loaded.names == {"x": loaded.inner, "y": loaded.inner}
