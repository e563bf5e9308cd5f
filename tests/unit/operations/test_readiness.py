"""What /health/ready says of what is known of the instances."""

import json
from time import monotonic
from typing import Any

import pytest

from gomodel.operations.readiness import report
from gomodel.upstream.health import DRAINING, Health


class Known:
    """An instance as far as `report` looks at it."""

    def __init__(self, state: str = "up", *, admits: bool = True) -> None:
        self.name = self.identity = "vllm"
        self.health = Health("vllm")
        self.in_flight = 3
        self.models = ("a", "b")
        self._admits = admits
        self.replicas = [self]
        self.barred = ""
        self.breaker = self
        self.opened_at, self.failed_at, self.cause = 0.0, 0.0, ""
        if state == "up":
            self.health.alive(0)
        elif state == "draining":
            self.health.failed(DRAINING)
        elif state == "down":
            self.health.failed("connection_refused")

    def candidate(self, now: float) -> bool:
        return self._admits


def known(*instances: Known) -> list[Any]:
    for number, each in enumerate(instances):
        each.name = f"vllm-{number}"
    return list(instances)


class TestReport:
    @pytest.mark.parametrize(
        ("instances", "ready", "shown"),
        [
            ([Known("up")], True, ["up"]),
            ([Known("down")], False, ["down"]),
            ([Known("unknown")], False, ["unknown"]),
            ([Known("draining")], False, ["draining"]),
            ([Known("up", admits=False)], False, ["circuit_open"]),
            ([Known("down", admits=False)], False, ["down"]),
            ([Known("unknown", admits=False)], False, ["unknown"]),
            ([Known("down"), Known("up")], True, ["down", "up"]),
            ([Known("up", admits=False), Known("unknown"), Known("down")], False, ["circuit_open", "unknown", "down"]),
        ],
    )
    def test_one_instance_that_can_take_a_request_is_enough(self, instances, ready, shown):
        found, body = report(known(*instances), asking=True, draining=False)
        document = json.loads(body)
        assert (found, document["status"]) == (ready, "ready" if ready else "unavailable")
        assert [each["state"] for each in document["instances"].values()] == shown

    def test_with_no_probes_what_is_not_known_to_be_down_is_taken_to_be_up(self):
        assert report(known(Known("unknown")), asking=False, draining=False)[0]
        assert not report(known(Known("unknown", admits=False)), asking=False, draining=False)[0]
        assert not report(known(Known("down")), asking=False, draining=False)[0]

    def test_a_drain_of_the_gateway_makes_it_unready_whatever_the_instances_are(self):
        ready, body = report(known(Known("up")), asking=True, draining=True)
        assert (ready, json.loads(body)["status"]) == (False, "draining")

    def test_the_body_has_names_and_numbers_only(self):
        _, body = report(known(Known("down")), asking=True, draining=False)
        [entry] = json.loads(body)["instances"].values()
        assert entry["for_s"] >= 0
        assert entry["last_error_age_s"] >= 0
        del entry["for_s"], entry["last_error_age_s"]
        counted = {"in_flight": 3, "models": 2, "replicas": 1, "replicas_ready": 0}
        assert entry == {"state": "down", "last_error": "connection_refused", **counted}

    def test_an_instance_is_as_its_best_replica_is(self):
        instance = Known("down")
        instance.replicas = [Known("down"), Known("draining"), Known("up", admits=False), Known("up"), Known("up")]
        ready, body = report([instance], asking=True, draining=False)
        entry = json.loads(body)["instances"]["vllm"]
        assert (ready, entry["state"], entry["replicas"], entry["replicas_ready"]) == (True, "up", 5, 2)
        assert entry["last_error"] == "draining"
        for count, state in ((3, "circuit_open"), (2, "draining"), (1, "down")):
            del instance.replicas[count:]
            ready, body = report([instance], asking=True, draining=False)
            assert (ready, json.loads(body)["instances"]["vllm"]["state"]) == (False, state)

    def test_a_state_has_its_own_age_and_reason(self):
        healthy, refusing, failing = Known("up"), Known("up"), Known("up", admits=False)
        for each in (healthy, refusing, failing):
            each.health.since -= 3600
        refusing.health.refuse_key()
        failing.opened_at, failing.failed_at, failing.cause = monotonic() - 60, monotonic() - 5, "status 503"
        _, body = report(known(healthy, refusing, failing), asking=True, draining=False)
        told = [
            (
                each["state"],
                round(each["for_s"], -1),
                each["last_error"],
                each["last_error_age_s"] and round(each["last_error_age_s"]),
            )
            for each in json.loads(body)["instances"].values()
        ]
        assert told == [
            ("up", 3600, None, None),
            ("refuses_the_key", 0, "instance_key_refused", 0),
            ("circuit_open", 60, "status 503", 5),
        ]

    def test_the_last_error_is_the_latest_of_a_probe_and_of_a_request(self):
        instance = Known("down")
        instance.failed_at, instance.cause = instance.health.failed_at - 1, "http_response_timeout"
        assert self.last_error(instance) == "connection_refused"
        instance.failed_at += 2
        assert self.last_error(instance) == "http_response_timeout"

    @staticmethod
    def last_error(instance):
        _, body = report([instance], asking=True, draining=False)
        return json.loads(body)["instances"]["vllm"]["last_error"]

    def test_an_instance_that_never_failed_has_no_last_error(self):
        _, body = report(known(Known("up")), asking=True, draining=False)
        [entry] = json.loads(body)["instances"].values()
        assert (entry["last_error"], entry["last_error_age_s"]) == (None, None)
