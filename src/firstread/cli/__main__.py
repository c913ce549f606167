"""``python -m firstread.cli``."""

from firstread.cli import main

if __name__ == "__main__":
    main()
