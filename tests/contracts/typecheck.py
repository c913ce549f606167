"""The type checker of all tests: shapes by jaxtyping, types by beartype, where an int is a float (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
