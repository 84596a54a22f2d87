"""The parts of `pymachine.driver.kit.sftp_server`.

- `protocol`: the numbers and packets of SFTP, version 3
- `confined_folder`: file operations that cannot leave a folder
- `handles`: the files and folders that a client has open
- `session`: the reply to each request
"""
