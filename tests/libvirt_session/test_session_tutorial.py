"""The tutorial, word by word as in tests/e2e, on a machine of a user's own libvirt."""

from e2e.test_tutorial import *  # noqa: F403
