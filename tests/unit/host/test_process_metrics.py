"""The numbers of this process are those that the system's own tools give."""

import os
import resource
import time

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from gomodel.host import process_metrics as module
from gomodel.host.process_metrics import process_metrics


def test_the_library_says_the_same():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    found = process_metrics()
    reference = {name: registry.get_sample_value(name) for name in found}
    assert found["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == reference["process_max_fds"]
    assert found["process_start_time_seconds"] == pytest.approx(reference["process_start_time_seconds"], abs=2)
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes"):
        assert found[name] == pytest.approx(reference[name], rel=0.2)


def test_every_descriptor_is_counted():
    before = process_metrics()["process_open_fds"]
    pipes = [os.pipe() for _ in range(20)]
    try:
        assert process_metrics()["process_open_fds"] == before + 40
    finally:
        for fd in (fd for pair in pipes for fd in pair):
            os.close(fd)


def test_descriptors_are_listed_where_the_system_does_not_count_them(monkeypatch):
    class Uncounted:
        st_size = 0

    before = process_metrics()["process_open_fds"]
    monkeypatch.setattr(module.os, "stat", lambda path: Uncounted())
    # The listing has a descriptor of its own.
    assert abs(process_metrics()["process_open_fds"] - before) <= 1


def test_it_started_in_the_past_and_not_long_ago():
    assert time.time() - 24 * 3600 < process_metrics()["process_start_time_seconds"] <= time.time() + 1


def test_without_proc_what_the_system_still_tells_is_told(monkeypatch):
    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(module, "open", missing, raising=False)
    assert process_metrics().keys() == {"process_cpu_seconds_total", "process_max_fds"}
