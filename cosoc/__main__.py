"""`python -m cosoc` is `cosoc`."""

from cosoc.cli import main

if __name__ == "__main__":
    main()
