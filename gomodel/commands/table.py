"""The table of the subcommands, in the order of the help."""

from .batch import BATCH
from .check import CHECK
from .demo import DEMO
from .doctor import DOCTOR
from .new_key import NEW_KEY
from .record import RECORD
from .replay import REPLAY
from .serve import SERVE
from .usage import USAGE

COMMANDS = (SERVE, CHECK, DEMO, DOCTOR, RECORD, REPLAY, USAGE, NEW_KEY, BATCH)
