"""Each import rule in pyproject.toml fails when it is broken, and the documented rooms are right.

The tests add every forbidden import to copies of the tree and read the report of import-linter.
"""

import graphlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]
LAYERS = {
    contract["containers"][0]: [layer.split(" | ") for layer in contract["layers"]]
    for contract in CONTRACTS
    if contract["type"] == "layers"
}
FORBIDDEN = [contract for contract in CONTRACTS if contract["type"] == "forbidden"]
PURE = next(contract for contract in FORBIDDEN if "db.rows" in contract["source_modules"])
PURE_PAIRS = list(itertools.product(PURE["source_modules"], PURE["forbidden_modules"]))
PACKAGES = {"service", "db"}
ROOMS_MAX = 15


def upward_pairs():
    """Yield each room with each room above it or beside it, which it must not import."""
    for container, layers in LAYERS.items():
        for height, layer in enumerate(layers):
            above = [room for higher in layers[:height] for room in higher]
            for room in layer:
                for other in [*above, *(beside for beside in layer if beside != room)]:
                    yield f"{container}.{room}", f"{container}.{other}"


def forbidden_pairs():
    """Yield each module of a `forbidden` contract with each module that it must not import."""
    for contract in FORBIDDEN:
        yield from itertools.product(contract["source_modules"], contract["forbidden_modules"])


def plant(tree, importer, imported):
    """Add an import to a copy of the tree; return the module that contains it.

    If the importer is a package, it gets a new module with the import.
    """
    place = tree / importer.replace(".", "/")
    if not place.is_dir():
        with place.with_suffix(".py").open("a") as file:
            file.write(f"\nimport {imported}\n")
        return importer
    name = f"planted_{imported.replace('.', '_')}"
    (place / f"{name}.py").write_text(f'"""Planted."""\n\nimport {imported}\n')
    return f"{importer}.{name}"


def copy_tree(directory):
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, directory / package, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", directory)
    return directory


def lint(tree):
    """Return the report of `lint-imports` about a tree, and its exit code."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.stdout + done.stderr, done.returncode


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The report about a tree in which the modules themselves contain every forbidden import."""
    tree = copy_tree(tmp_path_factory.mktemp("planted"))
    for importer, imported in dict.fromkeys([*upward_pairs(), *forbidden_pairs()]):
        plant(tree, importer, imported)
    report, code = lint(tree)
    assert code == 1, report
    return report


@pytest.fixture(scope="module")
def planted_below(tmp_path_factory):
    """The report about a tree where a module below the pure ones has the forbidden imports.

    It also has a module in no layer of each package.
    """
    tree = copy_tree(tmp_path_factory.mktemp("below"))
    plant(tree, "db.rows", "db.vocabulary")
    for imported in PURE["forbidden_modules"]:
        plant(tree, "db.vocabulary", imported)
    for package in PACKAGES:
        (tree / package / "unlayered.py").write_text('"""Planted."""\n')
    report, code = lint(tree)
    assert code == 1, report
    return report


def test_the_tree_itself_keeps_every_contract():
    report, code = lint(REPOSITORY)
    assert code == 0, report
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in report


@pytest.mark.parametrize(("importer", "imported"), list(upward_pairs()))
def test_an_import_of_a_room_above_or_beside_is_reported(planted, importer, imported):
    step = rf"^-?\s*{re.escape(importer)}(\.planted\w+)? -> {re.escape(imported)} \(l\."
    assert re.search(step, planted, re.MULTILINE)


@pytest.mark.parametrize(("importer", "imported"), list(forbidden_pairs()))
def test_a_forbidden_import_is_reported(planted, importer, imported):
    assert f"{importer} is not allowed to import {imported}:" in planted


@pytest.mark.parametrize(("importer", "imported"), PURE_PAIRS)
def test_a_forbidden_import_through_a_module_below_is_reported(planted_below, importer, imported):
    assert f"{importer} is not allowed to import {imported}:" in planted_below


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_module_in_no_layer_is_reported(planted_below, package):
    assert f"- {package}.unlayered" in planted_below


def test_the_pure_modules_may_import_no_dependency():
    project = PROJECT["project"]
    extras = itertools.chain(*project["optional-dependencies"].values())
    requirements = [*project["dependencies"], *extras]
    names = {re.match(r"[\w-]+", each)[0].replace("-", "_") for each in requirements}
    names = {"jwt" if name == "pyjwt" else name for name in names}
    assert names <= set(PURE["forbidden_modules"])


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_no_rooms_import_each_other_in_a_circle(graph):
    """The check covers every level: the packages, and the modules and packages inside each."""
    check_circles(graph)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("db.session.failures", "db.ledger.load"),
        ("db.session.failures", "db.session.pool"),
        ("db.vocabulary", "service.domain.lifecycle"),
    ],
)
def test_a_circle_is_detected(graph, importer, imported):
    graph.add_import(importer=importer, imported=imported)
    try:
        with pytest.raises(graphlib.CycleError):
            check_circles(graph)
    finally:
        graph.remove_import(importer=importer, imported=imported)


def check_circles(graph):
    """Raise `CycleError` if modules or packages beside each other import each other."""
    for parent in sorted({module.rpartition(".")[0] for module in graph.modules}):
        graphlib.TopologicalSorter(imports_between_children(graph, parent)).prepare()


def imports_between_children(graph, parent):
    """Return the rooms directly inside a package, each with the rooms that it imports."""
    depth = parent.count(".") + 2 if parent else 1

    def room(module):
        return ".".join(module.split(".")[:depth])

    inside = graph.find_descendants(parent) if parent else graph.modules
    imports = {room(module): set() for module in inside}
    for module in inside:
        for imported in graph.find_modules_directly_imported_by(module):
            if imported in inside and room(imported) != room(module):
                imports[room(module)].add(room(imported))
    return imports


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_has_few_rooms(graph, package):
    assert len(graph.find_children(package)) <= ROOMS_MAX


def documented_modules():
    """Return the rooms in docs/architecture.md with the modules that their tables name."""
    found = {}
    for line in (REPOSITORY / "docs" / "architecture.md").read_text().splitlines():
        if heading := re.fullmatch(r"### `((?:service|db)/.*)`", line):
            modules = found[heading[1].rstrip("/")] = set()
        elif line.startswith("#"):
            modules = set()
        elif row := re.match(r"\| `(\w+)` \|", line):
            modules.add(row[1])
    return found


def modules_by_room():
    """Return the rooms of the tree with their modules, except the numbered migrations."""
    found = {}
    for path in itertools.chain(*((REPOSITORY / package).rglob("*.py") for package in PACKAGES)):
        room = path.parent.relative_to(REPOSITORY).as_posix()
        if path.stem != "__init__" and path.parent.name != "versions":
            found.setdefault(room, set()).add(path.stem)
    return found


@pytest.mark.parametrize("room", sorted({*modules_by_room(), *documented_modules()}))
def test_the_documentation_names_every_module_in_its_room(room):
    assert documented_modules().get(room) == modules_by_room().get(room)
