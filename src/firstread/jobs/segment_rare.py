"""Labels that most subjects lack: their scores come from the subjects that have them, and that is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """Whom a label was looked for in. those: subjects whose truth shows it; lacking: the others; added: those among
    them where a result shows it all the same."""

    those: frozenset[str]
    lacking: frozenset[str]
    added: frozenset[str]

    @property
    def left_out(self) -> frozenset[str]:
        """Who does not count in means: those that lack the label, where they are the most.

        A label that only a result shows scores 0. Where most subjects lack it, a mean would be of these zeros and tell
        nothing about the label.
        """
        return self.lacking if len(self.lacking) > len(self.those) else frozenset()

    def note(self, name: str) -> str | None:
        """A sentence where someone is left out; None where all count."""
        if not self.left_out:
            return None
        total = len(self.those) + len(self.lacking)
        means = "nothing was measured of it" if not self.those else \
            f"its means are over {'that one' if len(self.those) == 1 else 'those'}"
        return (f"{name} is in the truth of {len(self.those)} of {total} subjects: {means}. In {len(self.added)} of "
                "the others the result shows it.")


def shown_in(found: Iterable[tuple[str, bool, bool]]) -> Shown:
    """Of subject, whether truth and whether result show a label, case by case.

    >>> shown_in([("p1", True, True), ("p1", False, True), ("p2", False, True), ("p3", False, False)]).note("tumour")
    'tumour is in the truth of 1 of 3 subjects: its means are over that one. In 1 of the others the result shows it.'
    """
    rows = list(found)
    those = frozenset(subject for subject, truth, _ in rows if truth)
    lacking = frozenset(subject for subject, _, _ in rows) - those
    return Shown(those, lacking, frozenset(subject for subject, _, result in rows if result) & lacking)
