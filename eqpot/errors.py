"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """Bad input, told in one line that names the file, frame and array, what was expected and what was found.

    The command line prints it without a traceback and exits with status 2.
    """
