"""`python -m kp_platform` is `kp`."""

from kp_platform.cli.main import main

main()
