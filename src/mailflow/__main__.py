"""`python -m mailflow`: the command line."""

from mailflow.cli import main

main()
