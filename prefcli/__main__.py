"""`python -m prefcli`, the same as the `prefcli` command (what `accelerate launch -m prefcli` runs)."""

from prefcli.cli.main import main

if __name__ == "__main__":
    main()
