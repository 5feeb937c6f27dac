"""`python -m voxshard`: the same as the `voxshard` command, for runtimes that name an interpreter."""

import sys

if __name__ == "__main__":
    try:
        from voxshard.cli import main
    except KeyboardInterrupt:  # Ctrl-C reaches the stages of `voxshard run` too, however young
        sys.exit(130)
    main()
