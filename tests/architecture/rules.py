"""The checks themselves: a tree or a text in, a list of complaints out.

Gives: layout, sys.path, task, text and size rules, each with no complaint for a sound sample.
Takes: paths and sources, so that every rule is also run on a sample that breaks it.
Raises: SyntaxError for a source that is not Python.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
PACKAGES = frozenset({"mailcore", "mailio", "control", "embedded", "lab", "postfleet"})
SOURCE_FOLDERS = ("platform", "workers", "tests", "deploy", "bench")
MODULE_LINES = 400
TASK_STATEMENTS = 5

_NOT_OURS = frozenset({"var", "__pycache__", "node_modules", "vendor", "build", "dist", "htmlcov"})
_HIDDEN_AND_OURS = frozenset({".ci", ".github"})
_CODE_SUFFIXES = frozenset(
    {".cfg", ".css", ".html", ".js", ".lua", ".py", ".sh", ".sql", ".toml", ".yaml", ".yml"}
)
_TEXT_SUFFIXES = _CODE_SUFFIXES | {".conf", ".in", ".json", ".md", ".svg", ".tsv", ".txt"}
_MACHINE_PATH = re.compile(r"(?<![\w.})/-])/(?:root|home|Users|work|workspace)/[\w.-]+")
_OPEN_END = re.compile(r"\b(?:TODO|FIXME|XXX)\b(?!\(#\d+\))")


def files_below(top: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Yield the files of our own below a folder, sorted; those without a suffix count as text."""
    for path in sorted(top.iterdir()):
        if path.is_dir():
            is_hidden = path.name.startswith(".") and path.name not in _HIDDEN_AND_OURS
            if path.name not in _NOT_OURS and not is_hidden:
                yield from files_below(path, suffixes)
        elif path.suffix in suffixes and not path.name.endswith((".min.js", ".min.css")):
            yield path


def python_files(top: Path) -> list[Path]:
    """Return our modules, migrations left out: Django writes those."""
    folders = [top / name for name in SOURCE_FOLDERS if (top / name).is_dir()]
    found = [path for folder in folders for path in files_below(folder, frozenset({".py"}))]
    return [path for path in [*top.glob("*.py"), *found] if "migrations" not in path.parts]


# --- layout --------------------------------------------------------------------------------------


def layout_faults(platform: Path) -> list[str]:
    """`platform/` is a folder of our packages and never a package itself."""
    faults = []
    for entry in sorted(platform.iterdir()):
        if entry.name == "__init__.py":
            faults.append("platform/__init__.py hides the standard library's platform")
        elif entry.name != "__pycache__" and entry.name not in PACKAGES:
            faults.append(f"platform/{entry.name} is none of {', '.join(sorted(PACKAGES))}")
    return faults


def folders_without_init(tests: Path) -> list[str]:
    """Two test modules of one name clash unless each folder is a package."""
    folders = {path.parent for path in files_below(tests, frozenset({".py"}))}
    folders |= {
        parent for folder in folders for parent in folder.parents if tests in parent.parents
    }
    return sorted(
        f"{folder.relative_to(tests.parent)} has no __init__.py"
        for folder in folders | {tests}
        if not (folder / "__init__.py").is_file()
    )


def sys_path_faults(source: str, name: str) -> list[str]:
    """The import path is set in two places; a third one makes imports depend on who came first."""
    return [
        f"{name}:{node.lineno} touches sys.path"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "path"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    ]


# --- tasks ---------------------------------------------------------------------------------------


def _task_decorator(node: ast.AST) -> ast.expr | None:
    for decorator in getattr(node, "decorator_list", ()):
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        called = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
        if called in {"task", "shared_task"}:
            return decorator if isinstance(decorator, ast.expr) else None
    return None


def _constant(decorator: ast.expr, keyword: str) -> object:
    if isinstance(decorator, ast.Call):
        for given in decorator.keywords:
            if given.arg == keyword and isinstance(given.value, ast.Constant):
                return given.value.value
    return None


def _statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return sum(isinstance(node, ast.stmt) for part in body for node in ast.walk(part))


def task_names(source: str) -> list[str]:
    """Return the explicit names of the tasks in a module."""
    found = (_task_decorator(node) for node in ast.walk(ast.parse(source)))
    names = (_constant(decorator, "name") for decorator in found if decorator is not None)
    return [name for name in names if isinstance(name, str)]


def task_faults(source: str, name: str) -> list[str]:
    """A task has an explicit name, acknowledges late and holds at most five statements."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        decorator = _task_decorator(node)
        if isinstance(node, ast.ClassDef) and any("Task" in ast.unparse(b) for b in node.bases):
            faults.append(f"{name}:{node.lineno} {node.name}: a task is a function, not a class")
        if decorator is None or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        where = f"{name}:{node.lineno} {node.name}"
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", str(_constant(decorator, "name"))):
            faults.append(f'{where}: no explicit name="<stage>.<verb>"')
        if _constant(decorator, "acks_late") is not True:
            faults.append(f"{where}: no acks_late=True")
        if _statements(node) > TASK_STATEMENTS:
            faults.append(f"{where}: {_statements(node)} statements, at most {TASK_STATEMENTS}")
    return faults


def delay_faults(source: str, name: str) -> list[str]:
    """Delays are due times in the ledger: a delayed task blocks the worker that holds it."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "retry":
            faults.append(f"{name}:{node.lineno} calls .retry(")
        faults += [
            f"{name}:{node.lineno} passes {keyword.arg}"
            for keyword in node.keywords
            if keyword.arg in {"countdown", "eta"}
        ]
    return faults


def topology_faults(tasks: list[str], rows: list[str]) -> list[str]:
    """Every task stands in exactly one row of the topology, and every row has its task."""
    faults = [f"task {name} is defined {tasks.count(name)} times" for name in set(tasks)]
    faults = [fault for fault in faults if not fault.endswith(" 1 times")]
    faults += [
        f"task {name} has {rows.count(name)} rows in TOPOLOGY, not one"
        for name in set(tasks)
        if rows.count(name) != 1
    ]
    faults += [f"TOPOLOGY names {name}, which is no task" for name in set(rows) - set(tasks)]
    return sorted(faults)


# --- size and text -------------------------------------------------------------------------------


def read_ratchet(text: str) -> dict[str, int]:
    """Read `<lines> <path>` rows; # starts a comment."""
    rows = (line.split("#")[0].split() for line in text.splitlines())
    return {row[1]: int(row[0]) for row in rows if row}


def ratchet_faults(sizes: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """A module over the limit may shrink, not grow, and the list follows it down."""
    faults = []
    for path, lines in sorted(sizes.items()):
        limit = allowed.get(path, MODULE_LINES)
        if lines > limit:
            faults.append(f"{path} has {lines} lines, at most {limit}")
        elif path in allowed and lines <= MODULE_LINES:
            faults.append(f"{path} is within {MODULE_LINES} lines: take it off the list")
        elif lines < limit and path in allowed:
            faults.append(f"{path} shrank to {lines} lines: write that instead of {limit}")
    faults += [f"{path} is listed and does not exist" for path in sorted(set(allowed) - set(sizes))]
    return faults


def text_files(top: Path) -> list[Path]:
    """Return every text of ours, the commands without a suffix included."""
    return list(files_below(top, _TEXT_SUFFIXES | {""}))


def text_faults(text: str, name: str) -> list[str]:
    """No path of somebody's machine anywhere; in code no loose end without an issue."""
    is_code = Path(name).suffix in _CODE_SUFFIXES or Path(name).name == "Makefile"
    faults = []
    for number, line in enumerate(text.splitlines(), start=1):
        faults += [
            f"{name}:{number} names a machine path: {found}"
            for found in _MACHINE_PATH.findall(line)
        ]
        if is_code and (loose := _OPEN_END.search(line)):
            faults.append(
                f"{name}:{number} {loose.group()} without an issue, as in {loose.group()}(#12)"
            )
    return faults
