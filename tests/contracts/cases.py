"""The cases of all stages, by the name of their class; one file for each room."""

from collections.abc import Callable

import cases_acquire
import cases_analyze
import cases_measure
import cases_reconstruct
import cases_restore
import cases_trust
from samples import Contract

ROOMS = (cases_acquire, cases_reconstruct, cases_restore, cases_analyze, cases_measure, cases_trust)
CASES: dict[str, Callable[[], Contract]] = {name: make for room in ROOMS for name, make in room.CASES.items()}
