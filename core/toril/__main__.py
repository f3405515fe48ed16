"""`python -m toril`: the command line."""

from toril.cli import main

main()
