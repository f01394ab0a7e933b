"""Where hypothesis is not installed, as in `make test-lowest`, the net is left out."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("hypothesis") else ["*.py"]
