"""What of an instance is out of rotation after each order of an operator."""

import pytest

from gomodel.balancing.rotation import ALL, Rotation

KNOWN = ("a:1", "b:1", "c:1")
ORDERS = [
    ([], set()),
    ([("drain", "a:1")], {"a:1"}),
    ([("drain", "a:1"), ("drain", "b:1")], {"a:1", "b:1"}),
    ([("drain", "a:1"), ("drain", "a:1")], {"a:1"}),
    ([("drain", "a:1"), ("resume", "a:1")], set()),
    ([("drain", "a:1"), ("resume", "b:1")], {"a:1"}),
    ([("drain", "a:1"), ("resume", None)], set()),
    ([("drain", None)], {ALL}),
    ([("drain", None), ("drain", "a:1")], {ALL}),
    ([("drain", "a:1"), ("drain", None)], {ALL}),
    ([("drain", None), ("resume", None)], set()),
    ([("drain", None), ("resume", "b:1")], {"a:1", "c:1"}),
    ([("drain", None), ("resume", "b:1"), ("resume", "a:1"), ("resume", "c:1")], set()),
]


@pytest.mark.parametrize(("orders", "out"), ORDERS)
def test_orders_leave_these_out(orders: list[tuple[str, str | None]], out: set[str]) -> None:
    rotation = Rotation()
    for what, address in orders:
        rotation.put(
            "vllm",
            rotation.drained("vllm", address) if what == "drain" else rotation.resumed("vllm", address, KNOWN),
        )
    assert {each for each in KNOWN if rotation.is_out("vllm", each)} == (set(KNOWN) if ALL in out else out)
    assert rotation.is_out("vllm", "new:1") is (ALL in out)
    assert not rotation.is_out("vllm-b", "a:1")


def test_one_that_is_out_with_all_of_its_instance_is_not_out_by_itself() -> None:
    rotation = Rotation()
    rotation.put("vllm", {"a:1"})
    assert [rotation.names("vllm", each) for each in ("a:1", "b:1")] == [True, False]
    rotation.put("vllm", {ALL})
    assert (rotation.names("vllm", "a:1"), rotation.is_out("vllm", "a:1")) == (False, True)
    assert not rotation.names("vllm-b", "a:1")


def test_nothing_stays_of_what_is_in_again() -> None:
    rotation = Rotation()
    for instance in ("a", "b"):
        rotation.put(instance, {ALL})
    rotation.put("a", ())
    assert (rotation._out, rotation.is_out("b", "x")) == ({"b": {ALL}}, True)
    rotation.clear()
    assert not rotation.is_out("b", "x")
