"""The steps of the tutorial that depend on the driver, on a machine of the system's libvirt.

The suites for a user's libvirt and for that of another host have all of its steps (`make test-libvirt`).
"""

from e2e.test_tutorial import *  # noqa: F403

del test_a_page_in_a_shared_folder_is_served_as_it_is_now  # noqa: F821 (the driver shares no folders)
# What happens in containers is the same with every driver.
del test_a_shell_runs_in_a_container  # noqa: F821
del test_a_program_installed_in_one_container_is_not_in_another_which_can_be_restarted_and_attached  # noqa: F821
del test_detached_containers_run_log_and_stop  # noqa: F821
del test_a_container_ends_with_its_first_process  # noqa: F821
