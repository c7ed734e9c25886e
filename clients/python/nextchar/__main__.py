"""The command `nextchar`, also as `python -m nextchar`."""


def main() -> None:
    """Run the command that the arguments name; Ctrl-C ends it with status 130, also while it starts."""
    try:
        from nextchar.cli.main import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
