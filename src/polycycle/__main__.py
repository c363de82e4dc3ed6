"""`python -m polycycle`, the same as the `polycycle` command."""

from polycycle.cli import main

if __name__ == "__main__":
    main()
