"""The guest image: built here from the signed packages of Debian, in pure Python, without root."""
