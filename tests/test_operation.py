"""Every declared operation authenticates its callers, and the document describes it."""

import uuid

import pytest

from db.vocabulary import Scope
from service.domain.errors import InvalidRequest
from service.http import openapi
from service.http.operation import Success, operation, operations

SEGMENTS = {
    "{id}": str(uuid.UUID(int=1)),
    "{refund_id}": str(uuid.UUID(int=2)),
    "{sku}": "A",
    "{location}": "main",
    "{code}": "not-found",
}


def address(declared):
    path = declared.path
    for name, value in SEGMENTS.items():
        path = path.replace(name, value)
    return path


def guarded(service):
    """Return the operations that need a scope."""
    return [each for each in operations(service.app) if each.scope is not None]


async def ask(service, declared, headers):
    """Send a request whose body, if the operation has one, is not valid JSON."""
    body = b"{" if declared.body is not None else None
    return await service.client.request(
        declared.method, address(declared), content=body, headers=headers
    )


async def test_every_operation_under_v1_needs_a_scope_and_no_other_operation_does(service):
    for each in operations(service.app):
        assert (each.scope is not None) == each.path.startswith("/v1/"), each.id
    assert {each.scope for each in guarded(service)} == set(Scope)


@pytest.mark.parametrize("authorization", ["", "Bearer hf_unknown", "Basic x"])
async def test_every_operation_with_a_scope_refuses_a_request_without_a_key(service, authorization):
    for each in guarded(service):
        refused = await ask(service, each, {"Authorization": authorization})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), each.id


async def test_every_operation_refuses_a_key_with_another_scope_before_it_reads_the_body(service):
    keys = {scope: await service.key("shop", scope) for scope in Scope if scope != Scope.ADMIN}
    for each in guarded(service):
        for scope, headers in keys.items():
            answer = await ask(service, each, headers)
            assert (answer.status_code == 403) == (scope != each.scope), each.id


async def test_every_operation_without_a_scope_answers_without_a_key(service):
    del service.client.headers["Authorization"]
    for each in operations(service.app):
        if each.scope is None:
            answer = await service.client.request(each.method, address(each))
            assert answer.status_code == 200, each.id


async def test_the_document_has_every_operation_as_it_is_declared(service):
    paths = openapi.document(service.app)["paths"]
    declared = list(operations(service.app))
    assert sum(len(methods) for methods in paths.values()) == len(declared)
    for each in declared:
        described = paths[each.path][each.method.lower()]
        assert described["operationId"] == each.id
        assert {str(answer.status) for answer in each.answers} <= set(described["responses"])
        assert {str(error.status) for error in each.errors} <= set(described["responses"])
        named = {parameter["name"] for parameter in described["parameters"]}
        assert {parameter.name for parameter in each.parameters} <= named
        assert ("requestBody" in described) == (each.body is not None)


async def test_every_list_refuses_a_parameter_that_it_does_not_declare(service):
    lists = [each for each in guarded(service) if each.query]
    assert len(lists) > 5
    for each in lists:
        answer = await service.client.request(
            each.method, address(each), params={"surprise": "1"}, content=b""
        )
        assert answer.status_code == 400, each.id
        assert answer.json()["errors"][0]["path"] == "surprise"


def test_a_result_with_a_status_that_is_not_declared_is_an_error():
    @operation("GET", "/v1/nothing", "Nothing", Success(200, "Nothing."), errors=(InvalidRequest,))
    async def nothing(call):
        """Return nothing."""

    declared = nothing.opt["operation"]
    assert (declared.id, declared.description) == ("nothing", "Return nothing.")
    assert declared.answer(200).description == "Nothing."
    with pytest.raises(LookupError, match="nothing declares no answer with status 201"):
        declared.answer(201)
