"""Compiles what every request passes, where GOMODEL_COMPILE=1 asks for it. All else of the package stands in setup.cfg.

    GOMODEL_COMPILE=1 pip install .

mypyc makes C of these modules by the types that they are annotated with; it takes a C compiler and Python's headers.
They are one group, so that calls and attributes among them go round the interpreter; their `.py` files are installed
beside them. Without the variable nothing is compiled and nothing of mypyc is needed.
"""

import os
from configparser import RawConfigParser

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# What runs for each request, and makes or reads the objects that each request has. Not what derives from aiohttp's
# classes, which have slots (`downstream/at_once` and below it, `upstream/channel`): mypyc's classes cannot. What runs
# once in a while is here only where it derives from one of these: `learning`, `tunnel`, `batch_calls`.
COMPILED = {
    "": ["app", "middleware"],
    "balancing": ["choice", "instance", "instances"],
    "downstream": ["known_head", "request"],
    "http1": ["framing", "head", "repeated_head", "request_fields", "response_fields", "similar_head", "writers"],
    "relay": [
        "at_once", "batch_calls", "event_flow", "exchange", "forward", "inference", "learning", "outgoing", "permitted",
        "relay", "response_head", "tunnel", "verdicts",
    ],
    "selector": ["json_body", "selector"],
    "telemetry": ["counters", "histogram", "record", "running", "spending", "usage"],
    "upstream": ["breaker", "head_reader", "host_counts", "pool", "replica"],
}  # fmt: skip


# By the types of this package, of Python and of what setup.cfg requires, whatever else is installed or configured.
OPTIONS = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]


class Compile(build_ext):
    """What setuptools does with extensions, once mypyc has made them."""

    def finalize_options(self) -> None:
        from mypyc.build import mypycify  # noqa: PLC0415 - setuptools asks first what it takes to build

        paths = [f"gomodel/{room}/{each}.py" for room, rooms in COMPILED.items() for each in rooms]
        self.distribution.ext_modules = mypycify([*OPTIONS, *paths], group_name="gomodel")
        super().finalize_options()


if os.environ.get("GOMODEL_COMPILE") == "1":
    options = RawConfigParser()
    options.read("setup.cfg")
    setup(
        # The mypy with which the tests pass.
        setup_requires=["mypy == 2.4.1", *options["options"]["install_requires"].split("\n")[1:]],
        ext_modules=[Extension("gomodel", [])],  # that there will be some
        cmdclass={"build_ext": Compile},
    )
else:
    setup()
