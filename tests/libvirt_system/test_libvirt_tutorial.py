"""The tutorial of tests/e2e, unchanged, on a machine of the system's libvirt."""

from e2e.test_tutorial import *  # noqa: F403
