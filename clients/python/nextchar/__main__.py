"""`python -m clients.python.nextchar`: the same as the command `nextchar`."""

from clients.python.nextchar.main import main

if __name__ == "__main__":
    main()
