"""The tutorial, word by word as in tests/e2e, on a machine of another host's libvirt."""

from e2e.test_tutorial import *  # noqa: F403
