"""Texts in queries: limits of length, errors that help, and names with invisible ends."""

import pytest

LISTS = {"/v1/reservations": ("source", "seq", "sku"), "/v1/stock": ("location",)}
INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u202e",
    "\u2066",
    "\u00ad",
    "\u2060",
    "\u200d",
    "\u3164",
    "\u180e",
]


async def refused(service, method, path, params, **more):
    """Return the only error of a request that must be answered with 400."""
    answer = await service.client.request(method, path, params=params, **more)
    assert answer.status_code == 400, (path, params, answer.text)
    (error,) = answer.json()["errors"]
    assert error["message"]
    return error


async def texts_of_queries(service):
    """Yield (method, path, parameter) for every text in a query of the document."""
    described = (await service.client.get("/schema/openapi.json")).json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            for parameter in operation["parameters"]:
                if parameter["in"] == "query" and parameter["schema"].get("type") == "string":
                    yield method.upper(), path, parameter


async def test_every_text_in_a_query_has_a_length_limit(service):
    await service.stock("A", 1)
    id_ = (await service.reserve("1", ("A", 1))).json()["id"]
    found = [one async for one in texts_of_queries(service)]
    assert {"source", "seq", "sku", "sku_prefix", "location", "cursor", "job"} <= {
        parameter["name"] for _, _, parameter in found
    }
    for method, path, parameter in found:
        name, address = parameter["name"], path.format(id=id_, sku="A", location="main")
        more = {"content": "A,main,1", "headers": {"Content-Type": "text/csv"}}
        sent = more if method == "POST" else {}
        if "enum" in parameter["schema"] or parameter["schema"].get("format") == "uuid":
            continue  # it needs no limit, because any other text is refused
        if parameter["schema"].get("format") == "date-time":
            error = await refused(service, method, address, {name: "2" * 65}, **sent)
        else:
            most = parameter["schema"]["maxLength"]
            error = await refused(service, method, address, {name: "x" * (most + 1)}, **sent)
            assert error["message"] == f"has more than {most:,} characters"
        assert error["path"] == name


async def test_a_filter_as_long_as_the_longest_name_is_accepted(service):
    name = "\U0001f6d2" * 128
    for path, names in LISTS.items():
        for parameter in names:
            params = {parameter: name}
            answer = await service.client.get(path, params=params)
            assert answer.status_code == 200, answer.text
    answer = await service.client.get("/v1/stock", params={"sku_prefix": name})
    assert answer.status_code == 200


async def test_the_cursor_of_the_longest_names_is_accepted(service):
    name, row = "\U0001f6d2" * 128, "\U0001f6d2" * 127
    for location in (f"{row}1", f"{row}2"):
        path = f"/v1/stock/{name}/{location}"
        created = {"If-None-Match": "*"}
        await service.client.put(path, json={"available": 1}, headers=created)
    lines = [{"sku": name, "location": f"{row}{n}", "quantity": 1} for n in "12"]
    body = {"seq": "1", "lines": lines}
    place = (await service.client.post("/v1/reservations", json=body)).headers["Location"]
    for path in ("/v1/stock", f"/v1/stock/{name}", f"{place}/movements"):
        first = (await service.client.get(path, params={"limit": 1})).json()
        params = {"limit": 1, "cursor": first["next_cursor"]}
        second = (await service.client.get(path, params=params)).json()
        assert len(second["items"]) == 1


@pytest.mark.parametrize("path", LISTS)
async def test_an_empty_filter_is_400_since_no_name_is_empty(service, path):
    for name in LISTS[path]:
        error = await refused(service, "GET", path, {name: ""})
        assert error == {"path": name, "message": "must not be empty"}


async def test_an_empty_prefix_counts_as_absent(service):
    await service.stock("A", 1)
    answer = await service.client.get("/v1/stock", params={"sku_prefix": ""})
    assert len(answer.json()["items"]) == 1


async def test_a_prefix_may_end_with_a_space(service):
    await service.stock("White heart", 1)
    answer = await service.client.get("/v1/stock", params={"sku_prefix": "White "})
    assert [item["sku"] for item in answer.json()["items"]] == ["White heart"]
    error = await refused(service, "GET", "/v1/stock", {"sku_prefix": "White\n"})
    assert error["message"] == "must not have control characters"


async def test_more_than_20_parameters_are_400(service):
    params = {f"p{n}": "1" for n in range(21)}
    error = await refused(service, "GET", "/v1/stock", params)
    assert error == {"path": "query", "message": "has more than 20 parameters"}


async def test_the_error_about_a_misspelt_parameter_names_the_right_one(service):
    error = await refused(service, "GET", "/v1/stock", {"sku_prefx": "A"})
    assert error["message"] == "is not a parameter here; did you mean sku_prefix?"
    error = await refused(service, "GET", "/v1/reservations", {"x" * 300: "1"})
    assert error == {"path": "x" * 64 + "…", "message": "is not a parameter here"}


async def test_the_error_about_a_missing_job_shows_an_example(service):
    error = await refused(service, "POST", "/v1/imports", {})
    assert error == {
        "path": "job", "message": "is missing: send it in the query, as ?job=monday"
    }  # fmt: skip


async def test_the_error_about_a_wrong_cursor_names_the_remedy(service):
    for cursor in ("", "x"):
        error = await refused(service, "GET", "/v1/stock", {"cursor": cursor})
        assert "next_cursor" in error["message"]


# Invisible characters at the ends of names


@pytest.mark.parametrize("character", [*INVISIBLE, " ", "\u00a0"])
@pytest.mark.parametrize("place", ["begins", "ends"])
async def test_a_name_that_begins_or_ends_with_an_invisible_character_is_refused(
    service, character, place
):
    name = f"{character}A" if place == "begins" else f"A{character}"
    await service.stock("A", 9)
    line, create = {"sku": "A", "quantity": 1}, {"If-None-Match": "*"}
    bodies = [
        ({"seq": name, "lines": [line]}, "seq"),
        ({"seq": "1", "source": name, "lines": [line]}, "source"),
        ({"seq": "1", "lines": [{**line, "sku": name}]}, "lines[0].sku"),
        ({"seq": "1", "lines": [{**line, "location": name}]}, "lines[0].location"),
    ]
    for body, path in bodies:
        error = await refused(service, "POST", "/v1/reservations", {}, json=body)
        assert error["path"] == path
        assert f"must not {place[:-1]} with" in error["message"]
    for path, names in LISTS.items():
        for parameter in names:
            assert (await refused(service, "GET", path, {parameter: name}))["path"] == parameter
    for path, parameter in ((f"/v1/stock/{name}/main", "sku"), (f"/v1/stock/A/{name}", "location")):
        error = await refused(service, "PUT", path, {}, json={"available": 1}, headers=create)
        assert error["path"] == parameter
    csv = {"content": f"{name},main,1".encode(), "headers": {"Content-Type": "text/csv"}}
    if not (character == "\ufeff" and place == "begins"):  # that is the file's byte order mark
        assert (await refused(service, "POST", "/v1/imports", {"job": "1"}, **csv))[
            "path"
        ] == "line 1"
    assert (await refused(service, "POST", "/v1/imports", {"job": name}, **csv))["path"] == "job"
    if character != " ":  # spaces around a header are not part of it
        sent = [(b"Idempotency-Key", name.encode())]
        key = (b"Authorization", service.client.headers["Authorization"].encode())
        error = await refused(
            service, "POST", "/v1/reservations", {}, json={"lines": [line]}, headers=[key, *sent]
        )
        assert error["path"] == "Idempotency-Key"
    assert await service.on_hand("A") == (9, 0)


@pytest.mark.parametrize(
    "name", ["a\u200db", "\u2764\ufe0f", "x\U000e0067\U000e007f", "\u200eA".strip("\u200e")]
)
async def test_a_name_may_contain_the_invisible_characters_of_emoji_and_words(service, name):
    await service.stock(name, 1)
    assert (await service.reserve("1", (name, 1))).status_code == 201
