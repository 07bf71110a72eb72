"""The architecture, held by reading the source: layers, imports, sizes of functions, docstrings."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from kp_platform_tests.stack import ROOT

VENDORS = {"dagster", "elasticsearch", "confluent_kafka", "trino", "redis", "pymysql"}
FOLDERS = ("kp_platform", "web_emitter", "kp_platform_tests")
PRODUCT = ("kp_platform", "web_emitter")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# From the lowest to the highest; an import only runs to a lower one.
LAYERS = (
    {"flows", "settings"},
    {"engine"},
    {"adapters", "analytics"},
    {"operations"},
    {"wiring"},
    {"local", "orchestration"},
    {"cli", "definitions"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# What runs without a server runs behind ports.
PURE = ("flows", "engine", "analytics", "operations")
SHARED = "web_emitter.contract"
LONGEST_FUNCTION, MOST_PARAMETERS, MOST_BRANCHES = 45, 6, 13
MOST_TOP_LEVEL_NAMES, MOST_TOP_LEVEL_IMPORTS = 14, 45

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports, at its top or inside its functions: of
    `from package import name` it is `package.name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(folder: str) -> list[Path]:
    path = ROOT / folder
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def importers(folder: str, *forbidden: str) -> list[str]:
    """Modules of a folder that import one of the packages, as `path: name`."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules_of(folder)
        for name in imported(path)
        if any(name == each or name.startswith(f"{each}.") for each in forbidden)
    ]


def top_level() -> set[str]:
    """The modules and folders at the top of kp_platform."""
    found = (ROOT / "kp_platform").iterdir()
    return {
        path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").is_file()
    } - {"__init__"}


def edges() -> dict[str, set[str]]:
    """Which other top-level modules and folders each top-level one imports."""
    found: dict[str, set[str]] = {name: set() for name in top_level()}
    for path in (ROOT / "kp_platform").rglob("*.py"):
        source = path.relative_to(ROOT / "kp_platform").parts[0].removesuffix(".py")
        for name in imported(path):
            package, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if package == "kp_platform" and target in found and target != source:
                found.setdefault(source, set()).add(target)
    return found


def functions(*folders: str) -> Iterator[tuple[str, Function]]:
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] in folders:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, Function):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def branches(function: Function) -> int:
    """The cyclomatic complexity."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(
            node,
            ast.If
            | ast.IfExp
            | ast.For
            | ast.AsyncFor
            | ast.While
            | ast.ExceptHandler
            | ast.comprehension
            | ast.match_case,
        ):
            count += 1
    return count


def parameters(function: Function) -> int:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_the_top_level_is_small() -> None:
    assert len(top_level()) <= MOST_TOP_LEVEL_NAMES
    assert sum(map(len, edges().values())) <= MOST_TOP_LEVEL_IMPORTS


def test_every_top_level_name_has_a_layer() -> None:
    assert top_level() == RANK.keys()


def test_imports_run_to_lower_layers_only() -> None:
    upward = [
        f"{source} -> {target}"
        for source, targets in edges().items()
        for target in targets
        if source != "__init__" and RANK[target] >= RANK[source]
    ]
    assert upward == []


def test_no_module_imports_itself_through_others() -> None:
    """Raises CycleError otherwise; imports inside functions count too."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in MODULES
        if path.relative_to(ROOT).parts[0] in PRODUCT and path.name != "__init__.py"
    }
    graph = {
        name: {
            module
            for each in imported(path)
            for module in (each, each.rpartition(".")[0])
            if module in modules and module != name
        }
        for name, path in modules.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


@pytest.mark.parametrize("folder", PURE)
def test_the_core_imports_neither_dagster_nor_a_client_nor_the_adapters(folder: str) -> None:
    assert importers(f"kp_platform/{folder}", *VENDORS, "kp_platform.adapters") == []


def test_only_orchestration_and_the_definitions_import_dagster() -> None:
    allowed = ("kp_platform/orchestration/", "kp_platform/definitions.py")
    assert [
        each for each in importers("kp_platform", "dagster") if not each.startswith(allowed)
    ] == []
    assert importers("web_emitter", "dagster") == []


def test_the_platform_and_the_emitter_share_one_module() -> None:
    found = [each.split(": ")[1] for each in importers("kp_platform", "web_emitter")]
    assert [name for name in found if name != SHARED and not name.startswith(f"{SHARED}.")] == []
    assert importers("web_emitter", "kp_platform") == []
    assert importers("web_emitter/contract.py", *VENDORS) == []


def test_the_emitter_library_does_not_import_the_site() -> None:
    assert importers("web_emitter/emitter", "web_emitter.site") == []


def test_pages_never_query_trino_nor_the_databases_behind_it() -> None:
    assert importers("web_emitter", "trino", "pymysql", "redis") == []


def test_a_feature_has_one_module_in_each_layer_and_none_at_the_top() -> None:
    """The folder is the layer: `operations/replay.py`, `orchestration/replay.py`."""
    names = top_level()
    below = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "kp_platform").glob("*/**/*.py")
        if path.stem in names - {"settings"} and path.stem != "__init__"
    ]
    assert below == []


def test_functions_are_short_and_take_few_parameters() -> None:
    found = list(functions(*PRODUCT))
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for _, node in found)
    assert lengths[int(len(lengths) * 0.99)] <= LONGEST_FUNCTION
    assert [
        name
        for name, node in found
        if parameters(node) > MOST_PARAMETERS and not name.startswith("kp_platform/cli/")
    ] == []
    assert [name for name, node in found if branches(node) > MOST_BRANCHES] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_packages_hold_a_docstring_only() -> None:
    """So every symbol has one path to import it by."""
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert [str(path) for path in packages if len(ast.parse(path.read_text()).body) != 1] == []
