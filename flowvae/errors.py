"""The exception for errors that the user can fix."""


class InputError(Exception):
    """Invalid input. Its message is one line: what was wrong, where, and what to do."""
