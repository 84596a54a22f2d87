"""The tutorial of tests/e2e, unchanged, on a machine of a user's own libvirt."""

from e2e.test_tutorial import *  # noqa: F403
