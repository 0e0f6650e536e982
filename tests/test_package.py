"""The package as a whole: import direction, quick start-up, the wheel, the limits of the style guide."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpo_video"
LEVELS: list[set[str]] = [
    {"errors"}, {"names", "progress", "quiet", "statistics", "texts", "cluster"}, {"records", "recipe", "near"},
    {"recipe_file", "store", "toy", "screening"},
    {"video"}, {"models", "judges"}, {"training", "formats"},
    {"cleaned", "tracking", "summary", "pair_table", "audit_page", "parquet"},
    {"clean"}, {"data"}, {"run"},
    {"pair_rules", "measures", "agreement", "rewards"},
    {"pair_answers", "pair_numbers", "tie_breaks", "video_negatives"},
    {"generate", "judge", "pair", "train"},
    {"generate_local", "generate_server", "evaluate", "merge", "audit", "agree"},
    {"judge_offline", "generate_ray", "plan"}, {"check_recipe"}, {"check_data"}, {"check", "frames", "listing"},
    {"cli_data"}, {"cli"}, {"__main__"}]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST, *, top_level: bool) -> set[str]:
    nodes = tree.body if top_level and isinstance(tree, ast.Module) else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources():
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        for module in imports(ast.parse(path.read_text(encoding="utf-8")), top_level=True):
            parts = module.split(".")
            if parts[0] == "dpo_video" and len(parts) > 1 and parts[1] != name and LEVEL[parts[1]] >= LEVEL[name]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("code", [
    "import sys; sys.argv = ['', '--help']; from dpo_video.cli import main\ntry: main()\nexcept SystemExit: pass",
    "import dpo_video.judge, dpo_video.judges.openai",
    "import dpo_video.pair, dpo_video.audit",
    "import dpo_video.agree",
    "import dpo_video.video",
    "import dpo_video.formats.importing, dpo_video.formats.exporting",
    "from dpo_video.run import open_run",
])
def test_what_needs_no_torch_does_not_import_it(code: str) -> None:
    check = "\nimport sys; assert not {'torch', 'transformers', 'wandb'} & set(sys.modules), 'heavy import'"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_keep_the_limits() -> None:
    too_long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            too_long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    too_long.append(f"{path.name}: {node.name} has {lines} lines")
    assert too_long == []


def test_the_wheel_carries_recipes_and_scorers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
                   check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    target = tmp_path / "site"
    target.mkdir()
    import zipfile

    zipfile.ZipFile(wheel).extractall(target)
    code = (f"import sys; sys.path.insert(0, {str(target)!r})\n"
            "import dpo_video; assert dpo_video.__file__.startswith(sys.path[0]), dpo_video.__file__\n"
            "from dpo_video.cli import main; sys.argv = ['dpo-video', 'list', sys.argv[1]]; main()")
    for kind, wanted in (("recipes", "quickstart"), ("scorers", "hound_quality")):
        command = [sys.executable, "-c", code, kind]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert wanted in done.stdout, done.stderr
    assert (target / "dpo_video" / "recipes" / "accelerate" / "fsdp2.yaml").is_file()
    assert not (target / "recipes").exists() and not (target / "scorers").exists(), "data is no import package"
