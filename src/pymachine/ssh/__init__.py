"""SSH to a machine: OpenSSH if installed, paramiko otherwise. Host keys are pinned in both cases."""
