"""`python3 FILE`: run the artefact with this interpreter.

This executes the interpreter again with the fast path, so that every call runs the same way: isolated and without site-packages.
The syntax is limited to Python 3.6's, so that an old Python can print the error.
"""

import os
import sys

if sys.version_info < (3, 10):
    sys.exit("tailscale-cni needs Python 3.10 or newer; this is " + sys.version.split()[0])
archive = __loader__.archive  # type: ignore[name-defined]
texts = [__loader__.get_data(os.path.join(archive, name)) for name in ("fastpath.py", "bootstrap.py")]  # type: ignore[name-defined]
os.execv(sys.executable, [sys.executable, "-IS", "-c", *texts, sys.argv[0], *sys.argv[1:]])
