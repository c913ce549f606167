"""One exception tree. Every error says what was got, what was expected and what to do.

    FirstreadError
    ├── InputError            a file, folder or argument that is not what it should be
    │   ├── FormatError         unknown, damaged or truncated
    │   └── UnsupportedError    valid, but Firstread cannot read it
    ├── GeometryError         spacing, orientation, grids that do not fit
    ├── SignalError           values: NaN, empty coils, nothing sampled
    ├── SettingError          a constructor argument out of its range
    ├── ChainError            stages that do not fit together
    │   ├── MissingRecordError    no record of the kind a stage reads
    │   ├── AmbiguousRecordError  two records fit and none is named
    │   └── GradientError         a gradient asked through a stage that has none
    └── OutputError           a result that cannot be written
"""


class FirstreadError(Exception):
    """Base of all errors a user can cause and mend; the command line prints it and exits 2."""

    def __init__(self, got: str, *, expected: str, remedy: str):
        self.got, self.expected, self.remedy = got, expected, remedy
        super().__init__(f"{got}; expected {expected}; {remedy}.")

    def __reduce__(self):
        return _rebuild, (type(self), self.got, self.expected, self.remedy)


def _rebuild(kind: type[FirstreadError], got: str, expected: str, remedy: str) -> FirstreadError:
    return kind(got, expected=expected, remedy=remedy)


class InputError(FirstreadError):
    """A file, folder or argument that is not what it should be."""


class FormatError(InputError):
    """A file in an unknown format, or damaged, or cut off."""


class UnsupportedError(InputError):
    """A valid file that Firstread cannot read."""


class GeometryError(FirstreadError):
    """Spacing, orientation or grids that do not fit."""


class SignalError(FirstreadError):
    """Values that cannot be measured ones: NaN, coils of zero energy, nothing sampled."""


class SettingError(FirstreadError):
    """A setting outside its range."""


class ChainError(FirstreadError):
    """Stages that do not fit together."""


class MissingRecordError(ChainError):
    """No record of the kind that a stage reads."""


class AmbiguousRecordError(ChainError):
    """Two records fit one argument and none is named."""


class GradientError(ChainError):
    """A gradient was asked through a stage that has none."""


class OutputError(FirstreadError):
    """A result that cannot be written."""
