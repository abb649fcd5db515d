from fastapi_tollbooth import Money
from fastapi_tollbooth.pricing import declare


def test_a_static_price_is_known_and_needs_no_body() -> None:
    price = declare("$0.01")
    assert price.known == Money.parse("$0.01")
    assert not price.reads_body
    assert str(price) == "$0.01"
