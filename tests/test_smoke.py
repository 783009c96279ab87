async def test_a_reservation_takes_units_and_its_retry_does_not(service):
    await service.stock("A", 10)
    first = await service.reserve("1", ("A", 2))
    again = await service.reserve("1", ("A", 2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.json() == again.json()
    assert await service.on_hand("A") == (8, 0)
