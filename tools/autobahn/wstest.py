"""Runs autobahntestsuite out of a folder: ``python2.7 wstest.py FOLDER [ARGUMENT ...]``. Python 2.7.

``addsitedir`` and not ``PYTHONPATH``: the folder's ``.pth`` files make ``zope`` a namespace.
"""

import site
import sys

folder = sys.argv.pop(1)
site.addsitedir(folder)
sys.path.insert(0, folder)

from autobahntestsuite.wstest import run  # noqa: E402

run()
