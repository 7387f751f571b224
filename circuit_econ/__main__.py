"""``python -m circuit_econ``: the command line."""

from circuit_econ.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
