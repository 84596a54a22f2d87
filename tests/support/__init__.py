"""Helpers for the tests: a runner for the installed program, servers, fake hosts, container images and packages."""
