"""The metrics are open by default, and need a key if the operator says so."""

import pytest

from tests.conftest import running_service


async def document_of(service):
    return (await service.client.get("/schema/openapi.json")).json()["paths"]["/metrics"]["get"]


async def test_the_metrics_are_open_by_default(service):
    described = await document_of(service)
    assert described["security"] == []
    assert "401" not in described["responses"]
    del service.client.headers["Authorization"]
    answer = await service.client.get("/metrics")
    assert answer.status_code == 200
    assert "holdfast_requests_total" in answer.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_with_the_setting_the_metrics_need_a_key_with_the_scope_read(database_url, method):
    async with running_service(database_url, metrics_key_required=True) as service:
        described = await document_of(service)
        assert described["security"] == [{"key": ["read"]}]
        assert "scope `read`" in described["description"]
        assert {"401", "403"} <= set(described["responses"])
        for headers, status in (
            ({"Authorization": ""}, 401),
            ({"Authorization": "Bearer x"}, 401),
            (await service.key("shop-eu", "reserve", "stock"), 403),
            (await service.key("shop-eu", "read"), 200),
            (await service.key("shop-eu", "admin"), 200),
        ):
            answer = await service.client.request(method, "/metrics", headers=headers)
            assert answer.status_code == status
            assert ("holdfast_requests_total" in answer.text) == (status == 200 and method == "GET")
        for path in ("/health/live", "/health/ready", "/schema", "/problems/not-found"):
            answer = await service.client.get(path, headers={"Authorization": ""})
            assert answer.status_code == 200, path
