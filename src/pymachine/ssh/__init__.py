"""SSH to a machine: OpenSSH when it is there, paramiko when it is not; host keys are pinned either way."""
