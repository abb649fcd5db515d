from fastapi_tollbooth.bounded import Bounded


def test_the_least_recently_used_is_forgotten() -> None:
    mapping: Bounded[str, int] = Bounded(2)
    mapping.put("a", 1)
    mapping.put("b", 2)
    assert mapping.get("a") == 1
    mapping.put("c", 3)
    assert (mapping.get("a"), mapping.get("b"), mapping.get("c")) == (1, None, 3)
    assert len(mapping) == 2


def test_values_are_dropped_by_condition() -> None:
    mapping: Bounded[str, int] = Bounded(9)
    for number in range(5):
        mapping.put(str(number), number)
    mapping.drop(lambda value: value % 2 == 0)
    assert [mapping.get(str(number)) for number in range(5)] == [None, 1, None, 3, None]
