"""The environment variables that connect a docker client to a machine."""

from __future__ import annotations

TLS_NAMES = ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
CONNECTION_NAMES = ("DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME")


def connection_variables(url: str, directory: str, name: str, *, windows: bool = False) -> list[tuple[str, str]]:
    """Return the variables that connect a docker client to a machine, in docker-machine's order.

    `url` is the engine's. `directory` is the folder of the client's certificate and key.
    """
    variables = [
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_HOST", url),
        ("DOCKER_CERT_PATH", directory),
        ("DOCKER_MACHINE_NAME", name),
    ]
    if windows:
        variables.append(("COMPOSE_CONVERT_WINDOWS_PATHS", "true"))
    return variables


def socket_variables(path: str, name: str) -> list[tuple[str, str]]:
    """Return the variables that connect a docker client to a machine's local socket. It fails with `TLS_NAMES` set."""
    return [("DOCKER_HOST", f"unix://{path}"), ("DOCKER_MACHINE_NAME", name)]
