"""The package as a whole: import direction, quick start-up, the wheel, the limits of the style
guide.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpo_video"
ORDER = [
    "core",
    "recipe client toy",
    "store tracking",
    "video",
    "models data",
    "run",
    "generate judge",
    "pair train agree benchmarks",
    "formats evaluate check family",
    "doctor pages parity",
    "cards review",
    "runs",
    "stale",
    "stages",
    "pipeline",
    "api",
    "cli",
    "__main__",
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names.split()}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def own_imports(path: Path, modules: set[str]) -> set[str]:
    """The own modules that a file imports, wherever in the file the import stands."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & modules
            imported |= submodules
            if submodules != names:
                imported.add(node.module)
    return imported & modules


def import_graph() -> dict[str, set[str]]:
    modules = {module_name(path) for path in sources()}
    return {module_name(path): own_imports(path, modules) for path in sources()}


def folder_of(module: str) -> str:
    return module.split(".")[1]


def test_folders_point_one_way() -> None:
    wrong = []
    for module, imported in import_graph().items():
        if module == "dpo_video":
            continue
        for target in imported - {"dpo_video"}:
            same = folder_of(target) == folder_of(module)
            if not same and LEVEL[folder_of(target)] >= LEVEL[folder_of(module)]:
                wrong.append(f"{module} imports {target}")
    assert sorted(wrong) == []


def test_json_is_read_and_written_in_one_place() -> None:
    """core/strict_json.py alone: NaN in a file of ours is an error wherever it comes from.

    core/jsonl.py names the field of a record that is not finite, and so lets pydantic find it.
    """
    allowed = {"core/strict_json.py": 1, "core/jsonl.py": 1}
    calls = {
        path.relative_to(PACKAGE).as_posix(): len(
            re.findall(r"\bjson\.(?:dump|load)s?\(", path.read_text(encoding="utf-8"))
        )
        for path in sources()
    }
    assert {name: count for name, count in calls.items() if count} == allowed


def test_no_module_imports_itself_in_a_circle() -> None:
    TopologicalSorter(import_graph()).prepare()  # CycleError names the circle


LATE_ALLOWED = {
    "dpo_video.pipeline",
    "dpo_video.stages",
    "dpo_video.cli.app",
    "dpo_video.cli.data",
    "dpo_video.cli.doctor",
    "dpo_video.cli.family",
    "dpo_video.cli.judging",
    "dpo_video.cli.looking",
    "dpo_video.cli.lists",
    "dpo_video.cli.pages",
    "dpo_video.cli.publishing",
    "dpo_video.cli.recipes",
    "dpo_video.cli.runs",
    "dpo_video.cli.serving",
    "dpo_video.generate.stage",
    "dpo_video.judge.backends.registry",
    "dpo_video.judge.backends.local",
    "dpo_video.data.samples",
    "dpo_video.check.times",
    "dpo_video.check.turns",
    "dpo_video.models.lora",
    "dpo_video.models.start",
}
"""The command line, the pipeline, and the tables that open something heavy: engines, backends, toy
names, and what only a run needs of a plan.
"""


def test_own_modules_are_imported_at_the_top_but_where_that_keeps_a_command_light() -> None:
    wrong = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom | ast.Import) or node in tree.body:
                continue
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
            )
            own = [name for name in names if name.split(".")[0] == "dpo_video"]
            if own and module_name(path) not in LATE_ALLOWED:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {own[0]} late")
    assert wrong == []


def test_no_own_module_is_imported_for_types_alone() -> None:
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                inner = "\n".join(map(ast.unparse, node.body))
                if re.search(r"\b(from|import) dpo_video\b", inner):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_contributing_tells_the_order_and_every_folder() -> None:
    """Its line of the order is the one that is tested, and its map has a row a folder or file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"\n    {' < '.join(name for name in ORDER if name != '__main__')}\n" in text
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    files = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    rows = set(re.findall(r"^\| `([^`]+)` \|", text, re.M))
    assert folders | files == {row for row in rows if (PACKAGE / row).exists()}


def test_every_folder_says_in_one_sentence_what_lives_there() -> None:
    for folder in {path.parent for path in sources()}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        sentence = " ".join((text or "").split("\n\n")[0].split())
        assert sentence.endswith(".") and ". " not in sentence, folder


def test_few_files_stand_in_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.argv = ['', '--help']; from dpo_video.cli.app import main\ntry: main()\n"
        "except SystemExit: pass",
        "import dpo_video.judge.stage, dpo_video.judge.backends.openai",
        "import dpo_video.pair.stage, dpo_video.pair.audit",
        "import dpo_video.agree.command",
        "import dpo_video.video",
        "import dpo_video.formats.import_file, dpo_video.formats.export_run",
        "from dpo_video.run import open_run",
    ],
)
def test_what_needs_no_torch_does_not_import_it(code: str) -> None:
    check = (
        "\nimport sys; assert not {'torch', 'transformers', 'wandb'} & set(sys.modules), 'heavy "
        "import'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import dpo_video.pipeline, dpo_video.check.data, dpo_video.cli.app",
        "import dpo_video.agree.command, dpo_video.pages.report, dpo_video.runs.status",
    ],
)
def test_what_asks_a_decoding_process_imports_no_decoder(code: str) -> None:
    check = "\nimport sys; print(sorted({'av', 'PIL', 'decord', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_files_and_functions_keep_the_limits() -> None:
    too_long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            too_long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    too_long.append(f"{path.name}: {node.name} has {lines} lines")
    assert too_long == []


def types_of(tree: ast.Module) -> set[str]:
    """The types that a file defines: classes, and aliases and type variables at its top."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if name[0].isupper() and not name.isupper()}


def functions_of(tree: ast.Module) -> set[str]:
    """The public functions that a file defines."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")}


def files_by_name(names_of: Callable[[ast.Module], set[str]]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for path in sources():
        for name in names_of(ast.parse(path.read_text(encoding="utf-8"))):
            files.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    return files


def test_no_type_has_the_name_of_another() -> None:
    assert {name: files for name, files in files_by_name(types_of).items() if len(files) > 1} == {}


def test_no_public_function_has_the_name_of_another() -> None:
    """Commands and the functions for notebooks are named as what they open, programs have a `main`,
    and the readers of benchmarks are one interface.
    """
    twice = {}
    for name, files in files_by_name(functions_of).items():
        own = [file for file in files if file.split("/")[0] not in ("api", "cli")]
        is_reader = name in ("read", "read_answers") and all(f[:11] == "benchmarks/" for f in own)
        if len(own) > 1 and name != "main" and not is_reader:
            twice[name] = own
    assert twice == {}


def test_comprehensions_are_hardly_ever_nested() -> None:
    """At most one in a thousand lines: what needs a second reading is a loop."""
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    num_lines, nested = 0, []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        num_lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kinds) and sum(isinstance(n, kinds) for n in ast.walk(node)) > 1:
                nested.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(nested) <= num_lines / 1000, nested


def test_documents_keep_the_columns() -> None:
    """Outside tables and code, where a line cannot be wrapped."""
    too_long = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        in_code = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.lstrip().startswith("```"):
                in_code = not in_code
            is_text = not in_code and not line.lstrip().startswith("|") and line[:4] != "    "
            if is_text and len(line) > 100:
                too_long.append(f"{path.name}:{number} has {len(line)} columns")
    assert too_long == []


def sources_at(name: str) -> str | None:
    """The Python text under a path that CONTRIBUTING names; None where there is no such path."""
    for place in (ROOT / name, PACKAGE / name):
        if place.is_dir():
            return "".join(path.read_text(encoding="utf-8") for path in place.rglob("*.py"))
        if place.is_file():
            return place.read_text(encoding="utf-8")
    return None


def test_what_contributing_names_is_there() -> None:
    """Every path of its tables exists, and every table in capitals stands in a file of its row."""
    wrong = []
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        quoted = re.findall(r"`([^`]+)`", line) if line.startswith("|") else []
        texts = {name: sources_at(name) for name in quoted if "/" in name}
        wrong += [name for name, text in texts.items() if text is None]
        text = "".join(filter(None, texts.values()))
        wrong += [name for name in quoted if name.isupper() and f"\n{name}" not in text]
    assert wrong == []


def test_the_wheel_carries_recipes_and_scorers(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    target = tmp_path / "site"
    target.mkdir()
    import zipfile

    zipfile.ZipFile(wheel).extractall(target)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import dpo_video; assert dpo_video.__file__.startswith(sys.path[0]), dpo_video.__file__\n"
        "from dpo_video.cli.app import main; sys.argv = ['dpo-video', 'list', sys.argv[1]]; main()"
    )
    for kind, wanted in (("recipes", "quickstart"), ("scorers", "hound_quality")):
        command = [sys.executable, "-c", code, kind]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert wanted in done.stdout, done.stderr
    assert (target / "dpo_video" / "recipes" / "accelerate" / "fsdp2.yaml").is_file()
    published = target / "dpo_video" / "models" / "published"
    assert (published / "Qwen" / "Qwen2.5-VL-3B-Instruct" / "config.json").is_file()
    pages = ("core/page.css", "pair/audit.html.jinja", "agree/agreement.html.jinja")
    pages += ("pages/report.html.jinja", "pages/gallery.js", "pages/gallery.css")
    pages += ("review/review.html.jinja", "review/review.js", "review/review.css", "pages/parts.js")
    for page in ("core/page.html.jinja", "core/page_macros.html.jinja", *pages):
        assert (target / "dpo_video" / page).is_file()
    assert not (target / "recipes").exists() and not (target / "scorers").exists(), (
        "data is no import package"
    )
