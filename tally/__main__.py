"""`python -m tally` is `tally`."""

from tally.main import main

if __name__ == "__main__":
    main()
