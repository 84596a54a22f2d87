"""Mount folders of this host in a machine over SSH, where the machine's hypervisor cannot share them.

This host logs in to the machine, runs ``sshfs -o passive`` there, and answers it as SFTP server on the connection.

- `keeper`: keeps the shared folders of one machine mounted
- `session`: the process for one mounted folder: the SSH client and the SFTP server
- `order`: what a session gets from the keeper, and what it reports
- `status`: the file in which the keeper records which folders are mounted
- `background`: start a machine's keeper in the background, find it again, and end it
"""
