"""The error that a person can mend."""


class InputError(ValueError):
    """Something given by the user cannot be used; the message names it and says how to mend it.

    The command line turns it into exit code 2 and one line on stderr. Every public function that reads a
    file, an array or a name raises this and nothing vaguer.
    """
