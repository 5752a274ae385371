"""``python -m reactometer``: the same commands."""

from reactometer.cli.app import main

if __name__ == "__main__":
    main()
