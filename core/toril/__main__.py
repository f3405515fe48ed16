"""`python -m toril`: the command line."""

from toril.cli import main

if __name__ == "__main__":  # a process of a worker's pool imports it too
    main()
