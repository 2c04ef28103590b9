"""`python -m rowspan`: the command, where its script is not in PATH."""

from rowspan.cli.main import main

if __name__ == "__main__":
    main()
