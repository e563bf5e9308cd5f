"""The end of a process with its parent; workers that end so are in test_upgrade."""

import signal
import subprocess
import sys


def test_a_parent_that_was_gone_before_is_noticed_at_once() -> None:
    code = "from gomodel.host.parent_death import end_with; end_with(-1)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
