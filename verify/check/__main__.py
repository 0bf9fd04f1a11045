"""The command: python -m verify.check CERTIFICATE DIRECTORY."""

import sys

from verify.check.certificate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
