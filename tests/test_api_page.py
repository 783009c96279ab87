"""docs/api.md is true and complete: its examples, its tables and its limits."""

import re
from uuid import NAMESPACE_URL, uuid5

import pytest

from service.domain.errors import all_errors
from service.domain.stock import AVAILABLE_MAX
from service.http.reading import body_kinds, parameters
from service.input import bodies, json_text
from service.ops import protocol
from tests import api_page

HEADING = re.compile(r"^### .*?: (.*)$", re.MULTILINE)
ADDRESS = re.compile(r"`([A-Z]+) (/[^`]*)`")
OBJECT = re.compile(r"^\*\*(.*)\*\*\n\n((?:\|.*\n)+)", re.MULTILINE)
MEMBERS = re.compile(r"^\| member \| value \| meaning \|\n\|.*\n((?:\|.*\n)+)", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(#([^)]+)\)")


def page():
    return api_page.PAGE.read_text(encoding="utf-8")


async def document_of(service):
    return (await service.client.get("/schema/openapi.json")).json()


def operations(document):
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def sections():
    """The text below each heading of an operation, by its method and path."""
    found = {}
    headings = list(HEADING.finditer(page()))
    for heading in headings:
        rest = page()[heading.end() :]
        text = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
        for method, path in ADDRESS.findall(heading[1]):
            found[method, path] = text
    return found


def first_column(rows):
    """The names in the first column of a table's rows."""
    return [name for row in rows.splitlines() for name in CODE.findall(row.split("|")[1])]


async def test_every_answer_and_every_table_is_up_to_date(
    service_without_sweeper,
):
    assert page() == await api_page.written(page(), service_without_sweeper)


async def test_every_operation_has_a_section_with_an_example_that_succeeds(
    service_without_sweeper,
):
    service = service_without_sweeper
    documented = operations(await document_of(service))
    assert set(sections()) == set(documented)
    succeeded = set()
    async for _, exchange, _ in api_page.play(page(), service):
        path = exchange.request.url.raw_path.decode().partition("?")[0]
        if exchange.response.is_success:
            succeeded |= {
                (method, template)
                for method, template in documented
                if method == exchange.request.method
                and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
            }
    assert succeeded == set(documented)


async def test_every_member_of_a_body_is_in_the_table_of_its_operation(service):
    document = await document_of(service)
    schemas = document["components"]["schemas"]
    for key, operation in operations(document).items():
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        schema = schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]
        table = MEMBERS.search(sections()[key])
        members = first_column(table[1]) if table else []
        named = {member for member in members if "[]" not in member}
        assert named == set(schema.get("properties", {})), key


async def test_every_member_of_an_object_is_in_its_table(service):
    document = await document_of(service)
    schemas = document["components"]["schemas"]
    tables = {name: set(first_column(rows)) for name, rows in OBJECT.findall(page())}
    objects = {
        "Reservation": ("GET", "/v1/reservations/{id}", "200"),
        "Refund": ("GET", "/v1/reservations/{id}/refunds/{refund_id}", "200"),
        "Stock row": ("GET", "/v1/stock/{sku}/{location}", "200"),
        "Adjustment": ("POST", "/v1/stock/{sku}/{location}/adjustments", "201"),
        "Import": ("POST", "/v1/imports", "201"),
        "Key": ("GET", "/v1/keys/{id}", "200"),
    }
    for name, (method, path, status) in objects.items():
        content = operations(document)[method, path]["responses"][status]["content"]
        schema = schemas[content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
        assert tables[name] == set(schema["properties"]), name
    movement = next(schema for name, schema in schemas.items() if name.startswith("Movement"))
    assert tables["Movement"] == set(movement["properties"])


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("lines of a reservation, confirm or refund", bodies.LINES_MAX),
        ("units of a line", bodies.QUANTITY_MAX),
        ("`available` of a stock row", AVAILABLE_MAX),
        ("`hold_seconds`", bodies.HOLD_SECONDS_MAX),
        ("reservations of a batch", bodies.BATCH_MAX),
        ("lines of a batch in all", bodies.BATCH_LINES_MAX),
        ("entries of `metadata`", bodies.METADATA_MAX),
        ("characters of a SKU, location, source, seq or job", bodies.NAME_MAX),
        ("characters of a key's label", bodies.LABEL_MAX),
        ("`grace_seconds`", bodies.GRACE_SECONDS_MAX),
        ("items of a page", parameters.LIMIT_MAX),
        ("depth of a JSON body", json_text.DEPTH_MAX),
        ("bytes of a body", body_kinds.BODY_MAX),
        ("bytes of a batch or an import", body_kinds.LARGE_BODY_MAX),
        ("bytes of a URL", protocol.URL_BYTES_MAX),
        ("bytes of all headers", protocol.HEAD_BYTES_MAX),
        ("header lines", protocol.HEAD_LINES_MAX),
        ("seconds for the headers to arrive", protocol.HEAD_SECONDS_MAX),
        ("seconds for the body to arrive", protocol.BODY_SECONDS_MAX),
    ],
)
def test_each_limit_on_the_page_equals_the_limit_in_the_code(limit, value):
    assert re.search(rf"^\| {re.escape(limit)} \| {value:,.0f}[ ]", page(), re.MULTILINE)


def test_the_snippet_that_derives_an_id_gives_the_id_of_the_example():
    derived = str(uuid5(uuid5(NAMESPACE_URL, "holdfast:shop-eu"), "order-1001"))
    snippet = page().split("```python\n")[1].split("```")[0]
    exec(snippet, {"uuid5": uuid5, "NAMESPACE_URL": NAMESPACE_URL})
    assert derived in snippet
    assert f"Location: /v1/reservations/{derived}\n" in page()


def test_every_code_of_an_example_is_in_the_table_of_errors():
    codes = {error.code for error in all_errors()}
    assert set(re.findall(r'"code": "(\w+)"', page())) <= codes


def test_every_link_within_the_page_leads_to_a_heading():
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page(), re.MULTILINE)
    }
    assert set(LINK.findall(page())) <= anchors


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md", "docs/idempotency.md"])
def test_other_pages_link_to_the_api_page(name):
    text = (api_page.PAGE.parent.parent / name).read_text(encoding="utf-8")
    assert re.search(r"\]\((docs/)?api\.md[#)]", text)
