"""`python -m hauberk`: the command line."""

from hauberk.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
