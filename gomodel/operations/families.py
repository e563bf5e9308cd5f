"""The metrics of contract section 8: names, labels, help, and how the numbers of several processes add up.

Decides nothing of how they are counted or shown.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


def _histograms(one: list[Any], other: list[Any]) -> list[Any]:
    return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]


def _total(one: float, other: float) -> float:
    return one + other


def _all_up(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


class Family(NamedTuple):
    """One metric; `merge` makes one number of two workers' numbers."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    merge: Callable[[Any, Any], Any] = _total


FAMILIES = (
    Family(
        "gomodel_requests_total",
        "counter",
        ("upstream", "route", "model", "code"),
        "Requests that ended; code 499: the client left before an answer.",
    ),
    Family(
        "gomodel_requests_in_flight",
        "gauge",
        ("upstream",),
        "Requests that run now; without an instance: none is chosen yet, or gomodel answers itself.",
    ),
    Family(
        "gomodel_request_duration_seconds",
        "histogram",
        ("upstream", "route"),
        "From the request's head to the end of its answer.",
        _histograms,
    ),
    Family(
        "gomodel_time_to_first_byte_seconds",
        "histogram",
        ("upstream", "route", "stream"),
        "From the request's head to the first byte of the instance's response body. stream: whether that is a stream "
        "of events; the first byte of another answer comes when all of it is made.",
        _histograms,
    ),
    Family(
        "gomodel_chunk_gap_seconds",
        "histogram",
        ("upstream",),
        "Between two pieces of a response body, as they came from the instance.",
        _histograms,
    ),
    Family(
        "gomodel_gap_seconds",
        "histogram",
        ("where",),
        "How long a request waited in all, by whom for: engine (the instance: connecting, its head, its body), gateway "
        "(the line included) or client (an upload that came slowly, an answer that was not read; only where it did).",
        _histograms,
    ),
    Family(
        "gomodel_byte_mismatch_total",
        "counter",
        ("direction",),
        "Bodies (of a request or a response) that gomodel sent on with other bytes than they came with: a bug in it. "
        "DIGEST says of how many requests that is looked at.",
    ),
    Family(
        "gomodel_wasted_seconds_total",
        "counter",
        ("upstream", "key"),
        "How long those requests ran whose clients left before the end; part of gomodel_generation_seconds_total.",
    ),
    Family(
        "gomodel_wasted_events_total",
        "counter",
        ("upstream", "key"),
        "Events of streams whose clients left before the end.",
    ),
    Family(
        "gomodel_cancel_seconds",
        "histogram",
        ("upstream",),
        "From a client's leaving, as soon as it shows, to the close of the connection to its instance.",
        _histograms,
    ),
    Family("gomodel_request_bytes_total", "counter", ("upstream",), "Request body bytes received from clients."),
    Family("gomodel_response_bytes_total", "counter", ("upstream",), "Response body bytes sent to clients."),
    Family(
        "gomodel_aborted_total",
        "counter",
        ("by", "phase"),
        "Requests that did not end by themselves: who ended them (client, upstream, gomodel), and in which phase.",
    ),
    Family(
        "gomodel_upstream_connects_total",
        "counter",
        ("upstream", "result"),
        "Connections opened to an instance for requests; result is ok or an RFC 9209 error type.",
    ),
    Family(
        "gomodel_upstream_retries_total", "counter", ("upstream",), "Attempts that failed and were followed by another."
    ),
    Family(
        "gomodel_affinity_total",
        "counter",
        ("by", "result"),
        "Requests for which several servers could be chosen from. by: what named the conversation (header, body, "
        "opening, response, none). result: home; spilled, as the home had too much to do; moved, as it took none.",
    ),
    Family(
        "gomodel_queue_waiting",
        "gauge",
        ("upstream",),
        "Requests that wait in line for a slot of a server with a limit (MAX_IN_FLIGHT); they are not in flight.",
    ),
    Family(
        "gomodel_queue_wait_seconds",
        "histogram",
        ("upstream",),
        "How long those waited in line that had their turn.",
        _histograms,
    ),
    Family(
        "gomodel_queue_requests_total",
        "counter",
        ("upstream", "outcome"),
        "Requests that did not get a slot at once: served, left (the client), timeout (QUEUE_TIMEOUT) or refused "
        "(the line was full).",
    ),
    Family(
        "gomodel_tokens_total",
        "counter",
        ("upstream", "model", "key", "kind"),
        "By what answers say; kind is prompt, cached (those of the prompt that came from the cache) or completion.",
    ),
    Family(
        "gomodel_usage_requests_total",
        "counter",
        ("upstream", "model", "key", "usage"),
        "Requests that an instance worked for; usage: whether the answer said how many tokens that took.",
    ),
    Family(
        "gomodel_generation_seconds_total",
        "counter",
        ("upstream", "model", "key"),
        "How long these requests ran, from their heads to the ends of their answers.",
    ),
    Family(
        "gomodel_audio_seconds_total",
        "counter",
        ("upstream", "model", "key"),
        "Seconds of sound that were transcribed, by what answers say.",
    ),
    Family(
        "gomodel_prompt_tokens_total",
        "counter",
        ("upstream", "source"),
        "Prompt tokens of answers that say how many came from the cache: source is cached or computed.",
    ),
    Family(
        "gomodel_breaker_open",
        "gauge",
        ("upstream",),
        "1 while the circuit breakers of all its replicas keep requests away, in any worker.",
        max,
    ),
    Family(
        "gomodel_instance_up",
        "gauge",
        ("upstream",),
        "1 when a replica of the instance answers, in every worker that knows; 0 also before anything is known.",
        _all_up,
    ),
    Family(
        "gomodel_instance_key_refused",
        "gauge",
        ("upstream",),
        "1 while a replica of the instance refuses the key of the gateway, in any worker; others get its requests.",
        max,
    ),
    Family(
        "gomodel_replica_up",
        "gauge",
        ("upstream", "replica"),
        "1 when the replica answers, in every worker that knows; 0 also before anything is known.",
        _all_up,
    ),
    Family(
        "gomodel_replica_breaker_open",
        "gauge",
        ("upstream", "replica"),
        "1 while the replica's circuit breaker keeps requests away, in any worker.",
        max,
    ),
    Family(
        "gomodel_replica_requests_in_flight",
        "gauge",
        ("upstream", "replica"),
        "Requests that the replica serves now.",
    ),
    Family(
        "gomodel_replicas_kept_out",
        "gauge",
        ("upstream", "why"),
        "Replicas that get no requests although they may answer, by why, in the worker that has most: taken out of "
        "rotation, asleep, or wedged.",
        max,
    ),
    Family(
        "gomodel_replicas_differing",
        "gauge",
        ("upstream", "what"),
        "Replicas that differ from others that take the same requests, by what, in the worker that knows of most: "
        "version, max_model_len, system_fingerprint, chat_template or greedy (REPLICA_GUARD).",
        max,
    ),
    Family(
        "gomodel_guard_requests_total",
        "counter",
        ("upstream", "what"),
        "Requests that gomodel makes of its own accord to compare replicas: version, chat_template, greedy.",
    ),
    Family(
        "gomodel_replica_set_age_seconds",
        "gauge",
        ("upstream",),
        "Since the instance's name was last answered with addresses, or since the start. The oldest of all workers.",
        max,
    ),
    Family(
        "gomodel_model_list_age_seconds",
        "gauge",
        ("upstream",),
        "Since the instance's model list was last read, or since the start if it never was. The oldest of all workers.",
        max,
    ),
    Family(
        "gomodel_event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop ran a timer, looked at about once a second.",
        _histograms,
    ),
    Family(
        "gomodel_key_requests_total",
        "counter",
        ("key", "code"),
        "Requests that ended, by the name of the key in the keys file, or master. Without a keys file there are none.",
    ),
    Family("gomodel_key_requests_in_flight", "gauge", ("key",), "Requests that run now, by the name of the key."),
    Family(
        "gomodel_key_refused_total",
        "counter",
        ("key", "limit"),
        "Requests refused with 429, by the name of the key and the limit in its entry.",
    ),
    Family(
        "gomodel_redis_up",
        "gauge",
        (),
        "1 while the Redis that limits are shared over answers, to every worker that has asked. None without one.",
        _all_up,
    ),
    Family(
        "gomodel_keys_file_broken",
        "gauge",
        (),
        "1 while the keys file has changed and cannot be used: the keys before stay. The log says why.",
        max,
    ),
    Family("gomodel_batch_lines_total", "counter", ("state",), "Lines of batches that are done: completed or failed."),
    Family(
        "gomodel_batches",
        "gauge",
        ("status",),
        "Batches of the database, those of other gateways that share it included.",
        max,
    ),
    Family(
        "gomodel_spans_total",
        "counter",
        ("outcome",),
        "OpenTelemetry spans: made, and of these exported to the collector or failed to be."
        " (OTEL_EXPORTER_OTLP_ENDPOINT).",
    ),
    Family("gomodel_build_info", "gauge", ("version",), "Always 1.", max),
    # Under the names that every dashboard for processes knows. The supervisor of several workers is not among them: it
    # waits.
    Family("process_cpu_seconds_total", "counter", (), "User and system CPU time; the sum of all workers there were."),
    Family(
        "process_resident_memory_bytes", "gauge", (), "Resident memory; the sum of all workers, shared pages each time."
    ),
    Family("process_virtual_memory_bytes", "gauge", (), "Virtual memory; the sum of all workers."),
    Family("process_open_fds", "gauge", (), "Open descriptors of the worker that has most.", max),
    Family("process_max_fds", "gauge", (), "The limit of open descriptors of one worker.", min),
    Family("process_start_time_seconds", "gauge", (), "When the first worker started, in seconds since 1970.", min),
)
