"""The errors a user can cause: printed as one line without a traceback, exit code 2."""


class UserError(ValueError):
    """What was given, why it cannot work, and what to do. The command line prints only the
    message.
    """
