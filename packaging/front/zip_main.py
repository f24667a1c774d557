"""`python3 FILE`: the same as FILE, with this interpreter.

It begins anew with the fast path, so that a call goes one way however it came: isolated, and with no site-packages.
The syntax is that of Python 3.6, to say so where that is what there is.
"""

import os
import sys

if sys.version_info < (3, 10):
    sys.exit("tailscale-cni needs Python 3.10 or newer; this is " + sys.version.split()[0])
archive = __loader__.archive  # type: ignore[name-defined]
texts = [__loader__.get_data(os.path.join(archive, name)) for name in ("fastpath.py", "bootstrap.py")]  # type: ignore[name-defined]
os.execv(sys.executable, [sys.executable, "-IS", "-c", *texts, sys.argv[0], *sys.argv[1:]])
