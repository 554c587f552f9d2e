"""For pytest: the examples in these modules are tried where Triton is installed, which is on Linux."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["*.py"]
