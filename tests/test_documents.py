"""The documents are true: every path, link, command, setting, metric and decision they name exists.

Each check has a test that plants an error and expects the check to find it.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import click
import pytest
from prometheus_client.metrics import MetricWrapperBase

from bench import attacks, endurance, growth, latency, report
from service import metrics
from service.cli import cli
from service.lab.claims import CLAIMS
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted(DOCS.rglob("*.md")),
]
CODE = sorted(
    path for room in ("service", "db", "bench", "tests") for path in (ROOT / room).rglob("*.py")
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
GENERATED = {
    "docs/benchmarks.md": report.PAGE,
    "docs/benchmarks/attacks.md": attacks.PAGE,
    "docs/benchmarks/endurance.md": endurance.PAGE,
    "docs/benchmarks/growth.md": growth.PAGE,
    "docs/benchmarks/latency.md": latency.PAGE,
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose(document: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL)


def spans(document: str) -> list[str]:
    """The texts between backticks outside blocks of code; a text may continue on the next line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(document))]


def commands(document: str) -> list[str]:
    """Spans and the lines of blocks of code; a line that ends with a backslash has the next one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [*spans(document), *(line.strip().removeprefix("$ ") for line in lines)]


# Paths


ROOMS = ("service", "db", "tests", "bench", "docs", "client", "deploy", ".ci")
SUFFIXES = (".py", ".md", ".toml", ".lock", ".yml", ".svg", ".html")


def missing_paths(document: str) -> list[str]:
    """Paths from the root that do not exist, and lone file names that no file has."""
    return [path for path in map(path_in, spans(document)) if path and not exists(path)]


def path_in(span: str) -> str:
    """The path in a span, without the name of a test after it; empty if the span has no path."""
    path = span.partition("::")[0]
    is_path = ("/" in path and path.split("/")[0] in ROOMS) or path.endswith(SUFFIXES)
    return path if is_path and not re.search(r"[\s{}<>$…*]", path) else ""


def exists(path: str) -> bool:
    if "/" in path:
        return (ROOT / path).exists()
    return (ROOT / path).exists() or any(any((ROOT / room).rglob(path)) for room in ROOMS)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_every_path_that_a_document_names_exists(name):
    assert missing_paths(text_of(name)) == []


def test_a_path_that_does_not_exist_is_found():
    document = "See `db/nowhere.py`, `nowhere.md` and `service/domain/`; `/v1/stock` is no path."
    assert missing_paths(document) == ["db/nowhere.py", "nowhere.md"]


def missing_tests(document: str) -> list[str]:
    """Tests, written like `tests/test_keys.py::test_a_key_expires`, that their module lacks."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document)
    return [name for path, name in named if f"def {name}(" not in text_of(path)]


@pytest.mark.parametrize("name", NAMES)
def test_every_test_that_a_document_names_exists(name):
    assert missing_tests(text_of(name)) == []


def test_a_test_that_does_not_exist_is_found():
    name = "test_a_test_that_does_not_exist_is_found"
    document = f"`tests/test_documents.py::{name}` `tests/test_documents.py::test_nothing`"
    assert missing_tests(document) == ["test_nothing"]


def test_each_threat_names_where_it_is_countered_and_a_test():
    section = text_of("docs/security.md").partition("## Threats")[2].partition("\n## ")[0]
    threats = [row for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(threats) > 20
    for row in threats:
        _, _, where, tests = row.strip("| ").split(" | ")
        assert where.startswith("`"), row
        assert tests.startswith("`tests/"), row


def missing_symbols(document: str, folder: Path) -> list[str]:
    """Names beside a link to a module that the module does not contain."""
    beside = re.findall(r"\]\(([^)#\s]+\.py)\)((?:,? `\w+`)+)", document)
    return [
        name
        for link, names in beside
        for name in re.findall(r"\w+", names)
        if name not in (folder / link).read_text()
    ]


def test_every_name_beside_a_link_to_a_module_is_in_that_module():
    assert missing_symbols(text_of("docs/idempotency.md"), DOCS) == []


def test_a_name_that_a_module_lacks_is_found():
    document = "[stock.py](../service/domain/stock.py) `import_stock`, `export_stock`"
    assert missing_symbols(document, DOCS) == ["export_stock"]


# Links


def broken_links(document: str, path: Path) -> list[str]:
    """Relative links whose file or heading does not exist."""
    return [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(document))
        if "://" not in link and not leads_somewhere(link, path)
    ]


def leads_somewhere(link: str, path: Path) -> bool:
    file, _, anchor = link.partition("#")
    target = path.parent / file if file else path
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text())


def anchors(document: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_and_anchor_of_a_document_resolves(name):
    assert broken_links(text_of(name), ROOT / name) == []


def test_a_link_without_a_file_or_a_heading_is_found():
    document = "[a](#two-commands) [b](#nowhere) [c](nowhere.md) [d](CONTRIBUTING.md#prose)"
    assert broken_links(document, ROOT / "README.md") == ["#nowhere", "nowhere.md"]


# Commands


TARGETS = set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), flags=re.MULTILINE))


def unknown_targets(document: str) -> list[str]:
    """Targets of `make` that the Makefile does not have."""
    found = []
    for command in commands(document):
        if named := re.match(r"make((?: [a-z][a-z-]*\b(?!=))+)", command):
            found += [target for target in named[1].split() if target not in TARGETS]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_target_of_make_that_a_document_names_exists(name):
    assert unknown_targets(text_of(name)) == []


def test_a_target_that_the_makefile_lacks_is_found():
    document = (
        "`make check nothing` and `make bench ARGS=x`\n```console\n$ make everything  # now\n```\n"
    )
    assert unknown_targets(document) == ["nothing", "everything"]


def unknown_commands(document: str) -> list[str]:
    """Words after `holdfast` that are neither a subcommand nor an option of it."""
    found = []
    for command in commands(document):
        if re.match(r"holdfast [a-z]", command):
            found += unknown_words(command.partition("#")[0].split()[1:])
    return found


def unknown_words(words: list[str]) -> list[str]:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and re.match(r"[a-z]", words[0]):
        subcommand = command.get_command(click.Context(command), words[0])
        if subcommand is None:
            return [words[0]]
        command, words = subcommand, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [flag for flag in flags if flag not in options | {"--help"}]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_of_holdfast_that_a_document_names_exists(name):
    assert unknown_commands(text_of(name)) == []


def test_a_command_or_option_that_holdfast_lacks_is_found():
    document = "`holdfast key create --source a`, `holdfast key borrow`, `holdfast serve --slowly`"
    assert unknown_commands(document) == ["borrow", "--slowly"]


# Settings and metrics


CODE_TEXT = "\n".join(path.read_text() for path in CODE) + text_of("Makefile")


def unknown_settings(document: str) -> list[str]:
    """Variables that are neither a setting nor read by the tests, the commands or the Makefile."""
    return [
        name
        for name in re.findall(r"HOLDFAST_[A-Z_]*[A-Z]", document)
        if name.removeprefix("HOLDFAST_").lower() not in Settings.model_fields
        and f'"{name}"' not in CODE_TEXT
        and f"{name}=" not in CODE_TEXT
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_variable_that_a_document_names_exists(name):
    assert unknown_settings(text_of(name)) == []


def test_a_variable_that_nothing_reads_is_found():
    document = "`HOLDFAST_PORT`, `HOLDFAST_KEY`, `HOLDFAST_" + "NOTHING`"
    assert unknown_settings(document) == ["HOLDFAST_" + "NOTHING"]


def test_operations_lists_every_setting_with_its_default():
    section = text_of("docs/operations.md").partition("## Settings")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]+?)`? \|", section, flags=re.MULTILINE))
    assert listed == {
        name.upper(): shown(field.default) for name, field in Settings.model_fields.items()
    }


def shown(default: object) -> str:
    if default in (None, ""):
        return "none"
    return f"{default:g}" if isinstance(default, float) else str(default)


def counted() -> dict[str, tuple[str, ...]]:
    """Each metric as `/metrics` shows it, with its labels."""
    found = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    return {
        f"{each._name}{'_total' if each._type == 'counter' else ''}": each._labelnames
        for each in found
    }


def unknown_metrics(document: str) -> list[str]:
    named = re.findall(r"`(holdfast_[a-z_]+)(?:\{([a-z_,]*)\})?`", document)
    return [
        name
        for name, labels in named
        if name not in counted() or (labels and tuple(labels.split(",")) != counted()[name])
    ]


# These names are roles of the database, not metrics.
ROLES = {"holdfast_owner", "holdfast_operator", "holdfast_superuser"}


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_that_a_document_names_exists_with_these_labels(name):
    assert set(unknown_metrics(text_of(name))) <= ROLES


def test_a_metric_that_does_not_exist_is_found():
    document = "`holdfast_outcomes_total{command}`, `holdfast_requests_total{route,method,status}`"
    assert unknown_metrics(document) == ["holdfast_outcomes_total"]


def test_operations_lists_every_metric():
    watching = text_of("docs/operations.md").partition("## Watching")[2]
    assert [name for name in counted() if f"`{name}" not in watching] == []


# Decisions


DECISIONS = re.findall(r"^## (\d+)\. (.+)$", text_of("docs/decisions.md"), flags=re.MULTILINE)
PARTS = ("Context", "Decision", "Consequences", "Alternatives")


def test_decisions_are_numbered_without_a_gap():
    assert [int(number) for number, _ in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def missing_parts(document: str) -> list[str]:
    """The titles of records that lack one of the four parts or have them in another order."""
    found = []
    for record in re.split(r"^## ", document, flags=re.MULTILINE)[1:]:
        parts = re.findall(rf"^\*\*({'|'.join(PARTS)})\.\*\*", record, flags=re.MULTILINE)
        if tuple(parts) != PARTS:
            found.append(record.partition("\n")[0])
    return found


def test_every_decision_has_its_four_parts():
    assert missing_parts(text_of("docs/decisions.md")) == []


def test_a_decision_without_alternatives_is_found():
    whole = "".join(f"**{part}.** Text.\n" for part in PARTS)
    assert missing_parts(f"## 1. A\n{whole}## 2. B\n{whole.rpartition('**Alt')[0]}") == ["2. B"]


def unknown_decisions(text: str) -> list[str]:
    """Numbers of decisions that have no record."""
    joined = re.sub(r"\n *#? ?", " ", text)
    named = re.findall(r"[Dd]ecisions? \[?(\d+)(?: (?:to|and) (\d+))?", joined)
    named += re.findall(r"docs/decisions\.md, ((?:\d+))()", joined)
    numbers = {number for number, _ in DECISIONS}
    return [number for pair in named for number in pair if number and number not in numbers]


def test_every_decision_that_is_referred_to_has_a_record():
    paths = [path for path in (*DOCUMENTS, *CODE) if path != Path(__file__)]
    assert {path for path in paths if unknown_decisions(path.read_text())} == set()


def test_a_decision_without_a_record_is_found():
    text = "see decision 1, decisions 2 to 98, and\n    # (docs/decisions.md, 99)"
    assert unknown_decisions(text) == ["98", "99"]


# Generated pages


def is_made_from(page: str, template: str) -> bool:
    """Whether a page is its template with values in the fields; lines may break elsewhere."""
    seen: set[str] = set()
    pattern = ""
    for part in re.split(r"(\{\w+(?::[^}]*)?\})", template):
        if not re.fullmatch(r"\{\w+(?::[^}]*)?\}", part):
            pattern += r"\s+".join(re.escape(word) for word in re.split(r"\s+", part))
            continue
        name = re.split(r"[:}]", part[1:])[0]
        pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.*?)"
        seen.add(name)
    return re.fullmatch(pattern, page, flags=re.DOTALL) is not None


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_agrees_with_the_template_that_makes_it(name):
    assert is_made_from(text_of(name), GENERATED[name])


def test_a_page_with_other_words_than_its_template_is_found():
    assert is_made_from("Made by 1.\nOn 1 core.\n", "Made by {n}. On {n:,} core.\n")
    assert not is_made_from("Made by 1.\nOn 2 cores.\n", "Made by {n}. On {n:,} cores.\n")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_says_which_command_made_it(name):
    made_by = re.search(r"Made by `(make [a-z-]+.*?)`", text_of(name))
    assert made_by is not None
    assert made_by[1].split()[1] in TARGETS
    assert f"--report {name}" in made_by[1]


def test_the_page_of_claims_says_which_command_made_it_and_has_the_lab_s_words():
    page, html = text_of("docs/claims.md"), text_of("docs/claims.html")
    assert "$ holdfast lab --preset claims" in page
    for claim in CLAIMS:
        assert f"## {claim.sentence}" in page
        assert f"Source: {claim.source}." in page
        assert escape(f"Source: {claim.source}.") in html


# The drawing of the rooms


def drawn_layers(drawing: str) -> dict[str, list[list[str]]]:
    """The layers of each package in a drawing, from the top; a box holds rooms side by side."""
    boxes: dict[str, dict[str, list[str]]] = {}
    for line in drawing.splitlines():
        if package := re.match(r"\s*subgraph (\w+)", line):
            boxes[package[1]] = {}
        elif line.startswith("    ") and "-->" in line and line.strip() != "domain --> dblab":
            for name, label in re.findall(r'(\w+)(?:\["([^"]+)"\])?(?: -->|$)', line):
                boxes[list(boxes)[-1]].setdefault(name, (label or name).split(" · "))
    return {package: list(layers.values()) for package, layers in boxes.items()}


def test_the_drawing_of_the_rooms_has_the_layers_of_the_import_rules():
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = {
        contract["containers"][0]: [
            layer.split(" | ") for layer in contract["layers"] if layer != "__main__"
        ]
        for contract in contracts
        if contract["type"] == "layers"
    }
    drawing = text_of("docs/architecture.md").partition("flowchart TD\n")[2].partition("```")[0]
    assert drawn_layers(drawing) == layers


# Words


RIDDLES = {
    "whoever, without a noun": r"\bwho(so)?ever\b",
    "who, as the subject of a statement": r"(?:^|[.:;|] |\n)Who\b(?![^.]*\?)",
    "away, for unreachable": r"\b(?:Redis|ZooKeeper|PostgreSQL|database|server) (?:is|was) away\b",
    "no plan yet, for incomplete": r"\bno plan yet\b",
    "nobody minds": r"\bnobody minds\b",
}
"""Only phrases that are never right, so that no sentence is refused by mistake."""


def riddles(text: str) -> list[str]:
    """The phrases of a text that our rules of prose forbid (CONTRIBUTING.md, Prose)."""
    return [name for name, pattern in RIDDLES.items() if re.search(pattern, text)]


def words_of(source: str) -> Iterator[str]:
    """The docstrings, comments and test names of a module, each by itself."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name.replace("_", " ")


def riddles_of(texts: Iterable[str]) -> list[str]:
    return [f"{name}: {text[:80]}" for text in texts for name in riddles(text)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CONTRIBUTING.md"])
def test_no_document_has_a_phrase_that_the_rules_of_prose_forbid(name):
    assert riddles_of([prose(text_of(name))]) == []


def test_no_docstring_comment_or_test_name_has_a_phrase_that_the_rules_of_prose_forbid():
    found = {str(path.relative_to(ROOT)): riddles_of(words_of(path.read_text())) for path in CODE}
    assert {path: phrases for path, phrases in found.items() if phrases} == {}


def test_a_forbidden_phrase_is_found_and_a_question_is_allowed():
    source = '"""Who waits is told."""\ndef f():  # whoever asks\n    """Who is it? A caller."""\n'
    assert len(riddles_of(words_of(source))) == 2
    assert riddles("Callers who wait, and a server that went away.") == []
