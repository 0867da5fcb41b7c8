"""No room reaches back: the import directions, read from the source, and what an import costs."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import skipdit

SOURCE = Path(skipdit.__file__).parent
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
PURE = ("caching.config", "caching.forecast", "caching.reuse", "caching.schedule", "diffusion", "nn")
HEAVY = ("matplotlib", "scipy", "sklearn", "timm", "torchmetrics", "torchvision", "transformers", "tyro")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> set[str]:
    """Dotted names that a module imports, anywhere in it; names taken from a package are part of the name."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, which this test cannot read"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of(*packages: str) -> list[str]:
    """The modules of packages, or modules, of skipdit; fails where a name means none."""
    chosen = {
        package: [name for name in MODULES if name == package or name.startswith(f"{package}.")] for package in packages
    }
    assert all(chosen.values()), f"nothing found for {[name for name, modules in chosen.items() if not modules]}"
    return [name for names in chosen.values() for name in names]


@pytest.mark.parametrize(
    ("room", "may_use"),
    [
        ("nn", {"nn"}),
        ("diffusion", {"diffusion"}),
        ("caching", {"caching"}),
        ("models", {"nn", "caching", "models"}),
    ],
)
def test_imports_point_one_way(room, may_use):
    used = {(module, name) for module in of(room) for name in imports(module) if name.startswith("skipdit")}
    assert not {(module, name) for module, name in used if name.split(".")[1] not in may_use}


def test_the_rooms_without_diffusers_do_not_import_it():
    assert not [(module, name) for module in of(*PURE) for name in imports(module) if re.match(r"diffusers\b", name)]


def test_nor_do_they_import_what_imports_it():
    reached = {"caching.hook", "models", "pipelines"}
    for module in of(*PURE):
        inside = {name.removeprefix("skipdit.") for name in imports(module) if name.startswith("skipdit.")}
        assert not {name for name in inside for coat in reached if f"{name}.".startswith(f"{coat}.")}, module


def test_the_forward_pass_needs_torch_and_einops_alone():
    allowed = {"torch", "einops", "skipdit", *sys.stdlib_module_names}
    assert not {name for module in of("nn") for name in imports(module) if name.split(".")[0] not in allowed}


def test_private_names_of_diffusers_are_in_one_module():
    private = re.compile(r"diffusers\.(hooks|models\.cache_utils)\b|diffusers\b.*\._")
    attributes = {"_diffusers_hook", "_cache_config", "_hf_hook", "_state_cache", "_context"}
    importing = {module for module in MODULES for name in imports(module) if private.match(name)}
    reading = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in attributes
    }
    assert importing == {"caching.hook"}
    assert reading <= {"caching.hook"}


def test_there_is_one_loop_over_layers():
    """One place calls a layer, in one loop; no loop elsewhere goes through layers, blocks or depth and calls."""
    calls = [
        (module, loop.lineno)
        for module in MODULES
        for loop in ast.walk(tree(module))
        if isinstance(loop, (ast.For, ast.While)) and calls_layers(loop)
    ]
    assert [module for module, _ in calls] == ["nn.rooms"], calls


def calls_layers(loop: ast.For | ast.While) -> bool:
    """Whether a loop calls what it loops over, or a method `layer`, or a member of `blocks` or `layers`."""
    targets = (
        {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        if isinstance(loop, ast.For)
        else set()
    )
    over = {name for node in ast.walk(loop.iter) for name in named(node)} if isinstance(loop, ast.For) else set()
    called = [node.func for statement in loop.body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return any(
        (isinstance(func, ast.Attribute) and func.attr == "layer")
        or (
            isinstance(func, ast.Subscript)
            and {"blocks", "layers"} & {n for node in ast.walk(func) for n in named(node)}
        )
        or (isinstance(func, ast.Name) and func.id in targets and over & {"blocks", "layers"})
        for func in called
    )


def named(node: ast.AST) -> set[str]:
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


def test_importing_the_package_loads_nothing_heavy():
    """diffusers itself takes transformers where it is installed, so that it is blocked first."""
    code = f"""
import sys
sys.modules["transformers"] = None  # as if it were not installed
import skipdit
skipdit.DiT, skipdit.SkipCacheConfig
print([name for name in {HEAVY} if sys.modules.get(name) is not None])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
