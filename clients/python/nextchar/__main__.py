"""`python -m nextchar`: the same as the command `nextchar`."""

from nextchar.cli.main import main

if __name__ == "__main__":
    main()
