"""How file descriptors are shared out."""

import pytest

from gomodel.host.descriptors import FEWEST_CLIENTS, most_clients, most_idle


@pytest.mark.parametrize(
    ("limit", "used", "instances", "clients", "idle"),
    [
        (1 << 20, 16, 1, 419_419, 209_709),
        (1 << 20, 16, 100, 419_260, 2096),
        (1024, 16, 1, 398, 199),
        (1024, 16, 10, 384, 19),
        (64, 14, 1, 15, 7),
        (64, 60, 1, FEWEST_CLIENTS, 1),
        (10, 16, 40, FEWEST_CLIENTS, 1),
    ],
)
def test_open_files_are_shared_by_clients_their_instances_and_what_lies_idle(limit, used, instances, clients, idle):
    assert most_clients(limit, used, instances) == clients
    assert most_idle(limit, used, instances) == idle
    if limit >= 64 and used < 60:
        assert used + 2 * clients + instances * idle <= limit
