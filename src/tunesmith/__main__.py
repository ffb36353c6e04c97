"""`python -m tunesmith`, and what launchers start: torchrun --nproc-per-node 2 -m tunesmith train recipe.yaml."""

from tunesmith.cli import main

main()
