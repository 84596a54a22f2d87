"""The tutorial of tests/e2e, on a machine of another host's libvirt."""

from e2e.test_tutorial import *  # noqa: F403

del test_a_page_in_a_shared_folder_is_served_as_it_is_now  # noqa: F821 (the driver shares no folders)
