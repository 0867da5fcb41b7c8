"""No room reaches back: the import directions, read from the source, and what an import costs."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import skipdit

SOURCE = Path(skipdit.__file__).parent
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
PURE = ("caching.config", "caching.forecast", "caching.memory", "caching.reuse", "caching.schedule", "diffusion", "nn")
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
        ("caching", {"attributes", "caching"}),
        ("models", {"nn", "caching", "models"}),
        ("tuning", {"caching", "diffusion", "evaluation", "files", "models", "pipelines", "randomness", "tuning"}),
    ],
)
def test_imports_point_one_way(room, may_use):
    used = {(module, name) for module in of(room) for name in imports(module) if name.startswith("skipdit")}
    assert not {(module, name) for module, name in used if name.split(".")[1] not in may_use}


def test_no_room_reaches_back():
    """The rooms can be put in an order in which each uses those before it; nobody uses the command line."""
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        used = {name.split(".")[1] for name in imports(module) if name.startswith("skipdit.")}
        room = module.split(".")[0]
        rooms.setdefault(room, set()).update(used - {room})
    TopologicalSorter(rooms).prepare()  # CycleError names the cycle
    assert {room for room, used in rooms.items() if "cli" in used} <= {"__main__"}


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


LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_there_is_one_loop_over_layers():
    loops = [(module, node) for module in MODULES for node in ast.walk(tree(module)) if isinstance(node, LOOPS)]
    running = [f"{module}:{loop.lineno}" for module, loop in loops if runs_layers(loop)]
    assert len(running) == 1, running
    assert running[0].startswith("nn.rooms:")


def runs_layers(loop: ast.AST) -> bool:
    """Whether a loop calls a method `layer`, a member of `blocks` or `layers`, or what it takes from one of them."""
    drivers = [driver for driver in getattr(loop, "generators", [loop]) if hasattr(driver, "iter")]
    over_layers = any(re.search(r"\b(blocks|layers)\b", ast.unparse(driver.iter)) for driver in drivers)
    taken = {node.id for driver in drivers for node in ast.walk(driver.target) if isinstance(node, ast.Name)}
    called = {ast.unparse(node.func) for node in ast.walk(loop) if isinstance(node, ast.Call)}
    return any(re.search(r"\.layer$|\b(blocks|layers)\[", name) or (over_layers and name in taken) for name in called)


def test_importing_the_package_loads_nothing_heavy():
    """diffusers itself takes transformers and peft where they are installed, so that they are blocked first."""
    code = f"""
import sys
sys.modules["transformers"] = sys.modules["peft"] = None  # as if they were not installed
import skipdit
skipdit.DiT, skipdit.SkipCacheConfig
print([name for name in {HEAVY} if sys.modules.get(name) is not None])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
