"""`python -m nuriwake` is the command `nuriwake`."""

from nuriwake.cli import main

main()
