"""The project keeps its shape: imports go down, files stay short, the core needs only JAX."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxgen"

# What each package may import, itself aside; the table goes down as that of the README does.
BOTTOM = {"directories", "errors", "files", "trees", "types", "windows"}
PACKAGES: dict[str, set[str]] = {
    "config": set(),
    "ops": set(),
    "nn": {"ops"},
    "generation": {"ops"},
    "models": {"nn", "ops", "generation"},
    "data": {"config"},
    "prediction": {"config", "data"},
    "evaluation": {"config", "generation", "ops"},
    "training": {"config", "evaluation"},
    "tasks": {
        *("config", "ops", "nn", "models", "generation", "prediction", "data", "evaluation"),
        "training",
    },
    "exports": {"config"},
}
PACKAGES["saved"] = {"config", "exports", "tasks", "training"}
PACKAGES["start"] = {*PACKAGES["saved"], "saved"}
PACKAGES["experiment"] = {*PACKAGES["start"], "start"}
PACKAGES["tuning"] = {*PACKAGES["experiment"], "evaluation", "experiment"}
PACKAGES["serving"] = {*PACKAGES}
PACKAGES["cli"] = {*PACKAGES}

# The packages that research code imports: they run where only these four are installed.
CORE = ("ops", "nn", "models", "generation")
CORE_LIBRARIES = {"jax", "flax", "optax", "numpy"}


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(node: ast.AST, *, top_level_only: bool = False) -> Iterator[str]:
    """The dotted names that a file imports, with or without those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            # `from jaxgen import ops` names the package in its list of names.
            yield from (f"{module}.{alias.name}" for alias in child.names)
        elif not (top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(child, top_level_only=top_level_only)


# One test a rule, not one a file: twelve hundred cases took as long as a training.


def test_imports_go_down() -> None:
    for path in source_files("jaxgen"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        assert own in BOTTOM | PACKAGES.keys(), f"{own} is missing in the table of packages"
        allowed = BOTTOM if own in BOTTOM else PACKAGES[own] | BOTTOM | {own}
        for name in imports(ast.parse(path.read_text())):
            package, _, rest = name.partition(".")
            if package == "jaxgen":
                target = rest.partition(".")[0]
                assert target in allowed, f"{name_of(path)} must not import {name}"


def test_core_imports_only_jax_and_friends() -> None:
    allowed = CORE_LIBRARIES | sys.stdlib_module_names | {"jaxgen"}
    for path in source_files(*(f"jaxgen/{package}" for package in CORE)):
        for name in imports(ast.parse(path.read_text()), top_level_only=True):
            assert name.partition(".")[0] in allowed, f"{name_of(path)} must not import {name}"


def test_files_are_short_and_say_their_purpose() -> None:
    for path in source_files("jaxgen", "tests", "benchmarks"):
        text, name = path.read_text(), name_of(path)
        assert len(text.splitlines()) <= 400, f"{name} is long: look for the seam"
        purpose = ast.get_docstring(ast.parse(text))
        assert purpose, f"{name} must begin with a docstring that says its one purpose"
        assert text.startswith('"""'), name


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_are_short() -> None:
    for path in source_files("jaxgen"):
        for function in functions(ast.parse(path.read_text())):
            assert function.end_lineno is not None
            docstring = ast.get_docstring(function, clean=False) or ""
            lines = function.end_lineno - function.lineno - docstring.count("\n")
            assert lines <= 60, f"{name_of(path)}: {function.name} has {lines} lines"


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light() -> None:
    heavy = ("datasets", "tokenizers", "pydantic", "orbax", "rich", "flax", "optax", "matplotlib")
    loaded = python(
        f"import sys, jaxgen; print(*[name for name in {heavy} if name in sys.modules])"
    )
    assert loaded.split() == []


def test_core_runs_without_the_rest() -> None:
    """Packages of research code import where pydantic and company are not installed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (
            *source_files(*(f"jaxgen/{package}" for package in CORE)),
            PACKAGE / "training" / "step.py",
        )
    ]
    blocked = {
        *("beartype", "datasets", "filelock", "huggingface_hub", "jaxtyping", "matplotlib"),
        *("pandas", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "tyro"),
    }
    python(
        f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
for module in {modules}:
    importlib.import_module(module)
"""
    )
