"""The one error for what a user can mend."""


class InputError(Exception):
    """Bad input: its message is one line that says what was wrong, where, and what to do."""
