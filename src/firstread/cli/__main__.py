"""``python -m firstread.cli``."""

from firstread.cli import main

main()
