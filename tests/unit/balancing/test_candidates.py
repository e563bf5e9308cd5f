"""What is the same for each request of a conversation: its number and its servers in rank; and how loaded they are."""

from collections.abc import AsyncIterator

import pytest

from gomodel.balancing import candidates as module
from gomodel.balancing.candidates import Candidates
from gomodel.balancing.choice import Choice
from gomodel.balancing.instances import Providers
from gomodel.balancing.rendezvous import Placed, key, ranked
from gomodel.config.load import from_environ
from gomodel.upstream.host_counts import Counter, HostCounts
from gomodel.upstream.replica import OUT, Replica


@pytest.fixture
async def providers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Providers]:
    monkeypatch.setattr("gomodel.upstream.host_counts.shared", HostCounts())
    urls = {"VLLM_BASE_URL": "http://127.0.0.1:9-12/v1", "VLLM_B_BASE_URL": "http://127.0.0.1:13/v1"}
    found = Providers(from_environ(urls))
    for each in found.replicas:
        each.health.ok(0)
    yield found
    await found.close()


async def test_a_conversation_is_ranked_by_its_name_model_and_caller(providers: Providers) -> None:
    among = Candidates(providers.replicas)
    seeds = tuple(each.seed for each in among.replicas)
    for named, said in ((b"s-1", b"s-1"), ((0x1F, 0xA0), b"1f a0"), (b"s" * 300, b"s" * 300)):
        for model, caller in (("m", "alice"), ("m", "bob"), ("n", "alice")):
            for _ in range(2):  # and so it is when it is known
                number, places, replicas = among.ranked(model, caller, named)
                assert number == key(model, caller, said)
                assert places == ranked(number, seeds)
                assert replicas == [among.replicas[each] for each in places]


async def test_no_more_conversations_are_remembered_than_a_few_thousand_and_none_of_a_long_name(
    providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    among = Candidates(providers.replicas)
    for named in (b"s" * 256, b"a", b"b", b"c"):
        among.ranked("m", "", named)
    assert [name for *_, name in among._known] == [b"a", b"b", b"c"]
    among.ranked("m", "", b"d")
    assert [name for *_, name in among._known] == [b"d"]


async def test_a_load_is_what_is_in_flight_and_none_where_nothing_is_taken(
    providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    among = Candidates(providers.replicas[:4])
    one, two, three, four = among.replicas
    for each, times in ((one, 2), (three, 1)):
        for _ in range(times):
            each.requests.enter()
    assert among.loads() == [2, 0, 1, 0]
    one.kept_back = True
    two.bar(OUT, True)
    four.demotion.failed(0.0)  # long ago
    assert among.loads() == [None, None, 1, 0]
    one.kept_back = False
    for each in (one, four):
        each.requests.alone = False  # other workers count as well
    monkeypatch.setattr(Counter, "total", property(lambda counter: 7))
    assert among.loads() == [7, None, 1, 7]


@pytest.mark.interpreted
async def test_who_lists_a_model_is_found_once_until_a_list_or_the_set_is_another(providers: Providers) -> None:
    instance = providers.instances["vllm"]
    listing: list[Replica] = instance.replicas[:2]

    def found(model: str) -> list[Replica]:
        return instance.among(model).replicas

    assert found("m") == instance.replicas  # nobody lists it
    for each in listing:
        each.lists(["m", "n"])
    providers.index()
    assert found("m") == listing
    assert instance.among("m") is instance.among("m") is instance.among("n")
    assert found("x") == instance.replicas
    listing[0].lists(["n"])
    providers.index()
    assert (found("m"), found("n")) == (listing[1:], listing)
    servers = [each.server for each in instance.replicas[1:]]
    instance._servers = lambda: servers  # type: ignore[method-assign]
    assert instance.follow_names()
    assert found("m") == [listing[1]]
    assert found("x") == instance.replicas


async def test_of_a_model_of_several_instances_each_replica_that_lists_it_is_asked(providers: Providers) -> None:
    last = providers.replicas[-1]
    for each in (providers.replicas[1], last):
        each.lists(["m"])
    providers.index()
    choice = providers.resolve("m")
    assert choice is not None
    assert choice.candidates == [providers.replicas[1], last]
    again = providers.resolve("m")
    assert again is not None
    assert again.among is choice.among
    assert again.candidates is not choice.candidates
    last.lists([])
    providers.index()
    choice = providers.resolve("m")
    assert choice is not None
    assert choice.candidates == [providers.replicas[1]]


@pytest.mark.parametrize(("name", "count", "remembered"), [("vllm-b", 1, True), ("vllm", 4, True), ("vllm", 2, False)])
async def test_a_conversation_is_remembered_where_all_servers_of_an_instance_may_take_it(
    providers: Providers, name: str, count: int, remembered: bool
) -> None:
    """As those behind one server, which has ranks, and of requests without a model."""
    instance = providers.instances[name]
    chosen = instance.replicas[:count]
    choice = Choice(chosen.copy(), "", bound=False, instance=instance)
    assert choice.by_conversation("alice", b"s") == Placed.HOME
    assert sorted(choice.candidates, key=chosen.index) == chosen
    assert [number for number, *_ in instance.among("")._known.values()] == [choice.conversation] * remembered
