"""Stop before the installation where Python is too old.

It must itself run on any old Python 3.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file exists for the Pythons below our own floor
    sys.exit(
        "balancing needs Python 3.11 or newer, and {} is {}.{}.\n"
        "Install a newer one and name it, for example: make book PYTHON=python3.12".format(
            sys.executable, *sys.version_info[:2]
        )
    )
