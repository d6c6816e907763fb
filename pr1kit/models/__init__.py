"""The policy: loading, adapters, precision, memory, export; the tiny policy's own classes."""

import logging

# At import, through peft, bitsandbytes warns of a package that would speed up 4-bit weights on some CPUs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
