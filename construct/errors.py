"""The hierarchy of errors. Each message says what was given, what was expected, and what to do.

The command line turns the first class into exit status 2; nothing here is ever shown as a traceback.
"""


class InputError(Exception):
    """Input that cannot be used: exit status 2."""


class TaskError(InputError):
    """A task file, a suite or its sizes are wrong."""


class PromptError(InputError):
    """A prompt cannot be read in the format of the tasks."""


class ArtifactError(InputError):
    """A construction's folder cannot be read or written."""


class TooLargeError(InputError):
    """The sizes asked for do not fit into memory; said before the attempt."""
