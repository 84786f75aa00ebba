"""The one error that a person is meant to read: what is wrong and what to do."""


class StackError(Exception):
    """Printed without a traceback; the program then ends with exit code 1."""
