import sys

from kdrun.cli import main

sys.exit(main())
