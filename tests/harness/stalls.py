"""The event loop's stalls: whatever keeps it from its next turn for longer than any callback may take.

A thread asks the loop for a sign of life every few milliseconds; when none comes it looks at what the loop's thread
executes. Time in which that thread only waited for a processor, as on a busy machine, is nobody's stall: what counts is
processor time that it used, or that it waited for something while the watching thread was never kept waiting. What a
test does itself, or the loop on its own, is their affair: a function of the package has to be on the stack.
"""

import asyncio
import gc
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

# What counts as a stall, and how often a sign of life is asked for.
LIMIT_S = 0.05
_STEP_S = 0.02
# The innermost frames say what ran.
_FRAMES = 8
_TESTS = str(Path(__file__).parents[1])
_PACKAGE = str(Path(__file__).parents[2] / "gomodel")


class Stalls:
    """Watches the running loop of the thread that makes it, until `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ident = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._ident)
        self._found: list[str] = []
        self._over = threading.Event()
        self._answered = True
        self._collecting = False
        gc.callbacks.append(self._collected)
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)
        self._thread.start()

    def stop(self) -> list[str]:
        """What was found, each with how long it had taken when it was looked at and the innermost frames."""
        gc.callbacks.remove(self._collected)
        self._over.set()
        self._thread.join()
        return self._found

    def _run(self) -> None:
        asked_at = used_s = 0.0
        noted, punctual_s = False, 0.0
        before = time.monotonic()
        while not self._over.wait(_STEP_S):
            now = time.monotonic()
            if now - before < 1.5 * _STEP_S:
                punctual_s += now - before
            before = now
            if self._collecting:
                continue
            if self._answered:
                self._answered = noted = False
                punctual_s, asked_at, used_s = 0.0, now, time.clock_gettime(self._clock)
                with suppress(RuntimeError):  # it has been closed
                    self._loop.call_soon_threadsafe(self._answer)
            elif not noted and now - asked_at > LIMIT_S:
                busy = time.clock_gettime(self._clock) - used_s > LIMIT_S / 2
                if busy or punctual_s > 2 * LIMIT_S:
                    noted = self._note(now - asked_at, "busy" if busy else "waiting")

    def _answer(self) -> None:
        self._answered = True

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """A whole collection takes as long as the test runner's memory is large: begin anew."""
        if info["generation"] == 2:
            self._collecting = phase == "start"
            self._answered = True

    def _note(self, late_s: float, how: str) -> bool:
        """What the loop's thread does now; whether it still was in the same turn."""
        frame = sys._current_frames().get(self._ident)
        if frame is None or self._answered:
            return False
        stack = traceback.extract_stack(frame)
        whose = next((each for each in reversed(stack) if each.filename.startswith((_TESTS, _PACKAGE))), None)
        imports = any(each.filename.startswith("<frozen importlib") for each in stack)  # once, by the first test
        if whose is not None and whose.filename.startswith(_PACKAGE) and not imports:
            frames = "".join(traceback.format_list(stack[-_FRAMES:]))
            self._found.append(f"no turn of the loop for {late_s * 1000:.0f} ms so far, {how} in\n{frames}")
        return True
