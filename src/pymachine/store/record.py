"""The record of one machine: docker-machine's config.json, version 3, as dataclasses.

Unknown fields are kept and written back: a record may come from docker-machine, from a newer pymachine, or from a
driver that is not installed here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pymachine.driver import fields as kinds, shares
from pymachine.driver.base_config import BaseConfig
from pymachine.driver.contract import Config, Endpoint, Json
from pymachine.driver.shares import Share
from pymachine.errors import RecordError
from pymachine.store import migrations, origins as origin_fields, paths, proxies as proxy_fields
from pymachine.store.client_files import ClientFiles
from pymachine.store.origins import Origin, Project
from pymachine.store.proxies import Proxies

T = TypeVar("T")


def _key(name: str) -> dict[str, str]:
    """Set the JSON key of a field that is not the CamelCase of its name."""
    return {"json": name}


@dataclass
class EngineOptions:
    """The engine's options. `arbitrary_flags` are ``--engine-opt`` values: flags of dockerd without dashes."""

    arbitrary_flags: list[str] = field(default_factory=list)
    dns: list[str] | None = None
    graph_dir: str = ""
    env: list[str] = field(default_factory=list)
    ipv6: bool = False
    insecure_registry: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    log_level: str = ""
    storage_driver: str = ""
    selinux_enabled: bool = False
    tls_verify: bool = True
    registry_mirror: list[str] = field(default_factory=list)
    install_url: str = field(default="", metadata=_key("InstallURL"))


@dataclass
class SwarmOptions:
    """The options of standalone Swarm. They are kept in the record for docker-machine, and have no effect."""

    is_swarm: bool = False
    address: str = ""
    discovery: str = ""
    agent: bool = False
    master: bool = False
    host: str = "tcp://0.0.0.0:3376"
    image: str = "swarm:latest"
    strategy: str = "spread"
    heartbeat: int = 0
    overcommit: float = 0
    arbitrary_flags: list[str] = field(default_factory=list)
    arbitrary_join_flags: list[str] = field(default_factory=list)
    env: list[str] | None = None
    is_experimental: bool = False


@dataclass
class AuthOptions:
    """The paths of the certificates, absolute as in docker-machine."""

    cert_dir: str = ""
    ca_cert_path: str = ""
    ca_private_key_path: str = ""
    ca_cert_remote_path: str = ""
    server_cert_path: str = ""
    server_key_path: str = ""
    client_key_path: str = ""
    server_cert_remote_path: str = ""
    server_key_remote_path: str = ""
    client_cert_path: str = ""
    server_cert_sans: list[str] = field(default_factory=list, metadata=_key("ServerCertSANs"))
    store_path: str = ""


@dataclass
class Machine:
    """The record of one machine: its name, driver, driver configuration and options."""

    name: str
    driver_name: str
    driver: Config
    engine: EngineOptions = field(default_factory=EngineOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)
    auth: AuthOptions = field(default_factory=AuthOptions)
    driver_program: str | None = None
    """`Driver.program` of a driver with `Trait.FOREIGN_CONFIG`, and None for any other driver."""
    endpoint: Endpoint | None = None
    """The endpoint, if it never changes. `env` connects to it without calling the driver."""
    certificates_expire: int | None = None
    """When the first certificate expires, in seconds since 1970. `ls` and `env` warn without reading the files."""
    context: str = ""
    """The docker context of the machine, which is removed with it."""
    expires: int | None = None
    """The end of its time to live, in seconds since 1970. Then `prune` and every `create` remove it."""
    owner: str = ""
    """The command whose end removes it; see `pymachine.hosts.prune`."""
    install_script: str = ""
    """The URL of the script that installs the engine. Without one, `engine.install_url` is docker-machine's default."""
    shares: list[Share] = field(default_factory=list)
    """The folders of this host that it shares."""
    share_events: bool = True
    """Whether changes that the host makes in them raise inotify events in the guest."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where its values came from, by the option of `create`. Empty defaults are left out."""
    project: Project | None = None
    """The project file that `up` created it for."""
    socket: bool = False
    """Whether a unix socket on this host reaches its engine: see `pymachine.hosts.local_socket`."""
    ipv6_ports: bool = False
    """Whether its forwarded ports are on ::1 too."""
    context_socket: bool = False
    """Whether its docker context uses that socket."""
    ca_certificates: list[str] = field(default_factory=list)
    """The certificates of further CAs that its guest trusts, in PEM."""
    proxies: Proxies = field(default_factory=Proxies)
    """The proxies that its engine uses, as they are on this host."""
    container_proxy: bool = False
    """Whether the docker client sets these proxies in its containers: see `pymachine.hosts.container_proxies`."""
    client_proxies: list[str] = field(default_factory=list)
    """The addresses of its engine for which the docker client's configuration has these proxies."""
    raw: dict[str, Json] = field(default_factory=dict, repr=False, compare=False)
    """The record as it was read, for its unknown fields."""

    @property
    def base(self) -> BaseConfig:
        """docker-machine's base fields of the driver's configuration."""
        return BaseConfig.of(self.driver, own_key=self.own_key)

    @property
    def own_key(self) -> Path:
        """Where the machine's own private key is, if pymachine or docker-machine made it."""
        return Path(self.auth.store_path) / paths.SSH_KEY

    @property
    def ssh_key(self) -> Path:
        """The private key that opens the machine."""
        return self.base.ssh_key or self.own_key

    def client_files(self, folder: Path) -> ClientFiles:
        """Return the certificates that a client of the machine uses; `folder` is the machine's own.

        A machine has copies in its folder, which fit its engine even after the store got a new CA. Without copies
        (driver `none`) they are at the paths in the record.
        """
        copies = ClientFiles.in_folder(folder)
        auth = self.auth
        if copies.exist() or not (auth.ca_cert_path and auth.client_cert_path and auth.client_key_path):
            return copies
        return ClientFiles(Path(auth.ca_cert_path), Path(auth.client_cert_path), Path(auth.client_key_path))

    def to_json(self) -> dict[str, Json]:
        """Return the content of config.json, with unknown fields as they were read."""
        host = dict(self.raw.get("HostOptions") or {})
        host = {"Driver": "", "Memory": 0, "Disk": 0, **host}
        host["EngineOptions"] = _dump(self.engine, host.get("EngineOptions"))
        host["SwarmOptions"] = _dump(self.swarm, host.get("SwarmOptions"))
        host["AuthOptions"] = _dump(self.auth, host.get("AuthOptions"))
        record = {
            **self.raw,
            "ConfigVersion": migrations.CONFIG_VERSION,
            "Driver": dict(self.driver),
            "DriverName": self.driver_name,
            "HostOptions": host,
            "Name": self.name,
        }
        ours = {
            "DriverProgram": self.driver_program,
            "Endpoint": None if self.endpoint is None else _dump(self.endpoint, None),
            "CertificatesExpire": self.certificates_expire,
            "DockerContext": self.context or None,
            "Expires": self.expires,
            "Owner": self.owner or None,
            "InstallScript": self.install_script or None,
            "Shares": [share_json(share) for share in self.shares] or None,
            "ShareEvents": None if self.share_events else False,
            "Origins": {name: origin_fields.origin_json(each) for name, each in self.origins.items()} or None,
            "Project": None if self.project is None else origin_fields.project_json(self.project),
            "Socket": self.socket or None,
            "ContextSocket": self.context_socket or None,
            "IPv6Ports": self.ipv6_ports or None,
            "CACertificates": self.ca_certificates or None,
            "Proxies": proxy_fields.proxies_json(self.proxies) if self.proxies else None,
            "ContainerProxy": self.container_proxy or None,
            "ClientProxies": self.client_proxies or None,
        }
        for key, value in ours.items():
            record.pop(key, None)
            if value is not None:
                record[key] = value
        return record

    @classmethod
    def from_json(cls, record: Json, *, name: str, folder: Path | None = None) -> Machine:
        """Read a record of any version. `name` is that of its folder, which may differ from the one in a copied record.

        With `folder`, absolute paths are adjusted to it; see `pymachine.store.migrations.relocate`. Raises
        `RecordError`, naming the field, if it is not a valid record.
        """
        fields: Mapping[str, Json] = migrations.migrate(_object(record, "the whole", name), name=name)
        if folder is not None:
            fields = migrations.relocate(fields, folder=folder)
        host = _object(fields.get("HostOptions") or {}, "HostOptions", name)
        driver_name = fields.get("DriverName")
        if not isinstance(driver_name, str) or not driver_name:
            raise RecordError(f'machine "{name}": config.json names no driver (DriverName is {driver_name!r})')
        endpoint = fields.get("Endpoint")
        project = _own(fields, "Project", origin_fields.PROJECT, name)
        driver = kinds.checked(
            _object(fields.get("Driver") or {}, "Driver", name), kinds.BASE, where="Driver", name=name
        )
        return cls(
            name=name,
            driver_name=driver_name,
            driver=driver,
            engine=_load(EngineOptions, host.get("EngineOptions"), name),
            swarm=_load(SwarmOptions, host.get("SwarmOptions"), name),
            auth=_load(AuthOptions, host.get("AuthOptions"), name),
            driver_program=_own(fields, "DriverProgram", kinds.PATH, name),
            endpoint=None if endpoint is None else _load(Endpoint, endpoint, name),
            certificates_expire=_own(fields, "CertificatesExpire", kinds.SECONDS, name),
            context=_own(fields, "DockerContext", kinds.CONTEXT, name) or "",
            expires=_own(fields, "Expires", kinds.SECONDS, name),
            owner=_own(fields, "Owner", kinds.TEXT, name) or "",
            install_script=_own(fields, "InstallScript", kinds.TEXT, name) or "",
            shares=[_share(entry) for entry in _own(fields, "Shares", _SHARES, name) or ()],
            share_events=_own(fields, "ShareEvents", kinds.BOOLEAN, name) is not False,
            origins=origin_fields.origins(_own(fields, "Origins", origin_fields.ORIGINS, name) or {}),
            project=None if project is None else origin_fields.project(project),
            socket=bool(_own(fields, "Socket", kinds.BOOLEAN, name)),
            context_socket=bool(_own(fields, "ContextSocket", kinds.BOOLEAN, name)),
            ipv6_ports=bool(_own(fields, "IPv6Ports", kinds.BOOLEAN, name)),
            ca_certificates=list(_own(fields, "CACertificates", _CERTIFICATES, name) or ()),
            proxies=proxy_fields.proxies(_own(fields, "Proxies", proxy_fields.PROXIES, name) or {}),
            container_proxy=bool(_own(fields, "ContainerProxy", kinds.BOOLEAN, name)),
            client_proxies=list(_own(fields, "ClientProxies", _ENGINE_URLS, name) or ()),
            raw=dict(fields),
        )


def _own(fields: Mapping[str, Json], key: str, kind: kinds.Field, name: str) -> Json:
    """Return a field that only pymachine writes, or None."""
    value = fields.get(key)
    if value is not None:
        kinds.require(kind, value, key, name)
    return value


def share_json(share: Share) -> dict[str, Json]:
    """Return a shared folder as the record has it."""
    return {"Path": str(share.path), "GuestPath": str(share.guest_path), "ReadOnly": share.read_only}


def _share(entry: Mapping[str, Json]) -> Share:
    return Share(path=Path(entry["Path"]), guest_path=PurePosixPath(entry["GuestPath"]), read_only=entry["ReadOnly"])


def _is_share(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and {key: type(entry) for key, entry in value.items()} == {"Path": str, "GuestPath": str, "ReadOnly": bool}
        and all(kinds.TEXT.fits(value[key]) and kinds.PATH.fits(value[key]) for key in ("Path", "GuestPath"))
        and Path(value["Path"]).is_absolute()
        and value["GuestPath"].startswith("/")
        and ".." not in (*Path(value["Path"]).parts, *PurePosixPath(value["GuestPath"]).parts)
    )


_SHARES = kinds.Field(
    f"a list of at most {shares.MOST} objects of Path, GuestPath (both absolute) and ReadOnly",
    lambda value: isinstance(value, list) and len(value) <= shares.MOST and all(map(_is_share, value)),
)


_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,64}\n){1,600}-----END CERTIFICATE-----\n")
_MOST_CERTIFICATES = 100
_CERTIFICATES = kinds.Field(
    f"a list of at most {_MOST_CERTIFICATES} certificates in PEM",
    lambda value: (
        isinstance(value, list)
        and len(value) <= _MOST_CERTIFICATES
        and all(isinstance(each, str) and _PEM.fullmatch(each) for each in value)
    ),
)


_ENGINE_URL = re.compile(r"(?:tcp|https?|unix)://[^\x00-\x20]{1,1000}")
_ENGINE_URLS = kinds.Field(
    "a list of at most 8 addresses of an engine",
    lambda value: (
        isinstance(value, list)
        and len(value) <= 8
        and all(isinstance(each, str) and _ENGINE_URL.fullmatch(each) for each in value)
    ),
)


def json_name(item: dataclasses.Field[Json]) -> str:
    """Return the JSON key of an option."""
    return str(item.metadata.get("json") or "".join(word.capitalize() for word in item.name.split("_")))


def _dump(options: EngineOptions | SwarmOptions | AuthOptions | Endpoint, old: Json) -> dict[str, Json]:
    known = {json_name(item): getattr(options, item.name) for item in dataclasses.fields(options)}
    return {**(old if isinstance(old, dict) else {}), **known}


def _load(kind: type[T], data: Json, name: str) -> T:
    """Return an options object from JSON. Missing and null values keep their defaults, a wrong type is an error."""
    given = _object(data or {}, kind.__name__, name)
    attributes, expected = _layout(kind)  # type: ignore[arg-type]  # a class is hashable
    values = kinds.checked(given, expected, where=kind.__name__, name=name)
    return kind(**{attribute: values[key] for key, attribute in attributes.items() if key in values})


@functools.cache  # `ls` of 50 machines reads 200 of these objects
def _layout(kind: type) -> tuple[Mapping[str, str], Mapping[str, kinds.Field]]:
    """Return the attribute and the kind of value for each JSON key of an options class."""
    items = dataclasses.fields(kind)
    return {json_name(item): item.name for item in items}, {json_name(item): _kind(kind, item) for item in items}


_KINDS = {
    "bool": kinds.BOOLEAN,
    "str": kinds.STRING,
    "int": kinds.integer(),
    "float": kinds.NUMBER,
    "list[str]": kinds.STRINGS,
}
# A URL may have a port above 65535: see the driver none.
_KINDS_BY_NAME = {"docker_port": kinds.integer(0), "ssh_port": kinds.PORT_OR_NONE, "ssh_user": kinds.USER}


def _kind(options: type, item: dataclasses.Field[Json]) -> kinds.Field:
    """Return which values an option may have."""
    annotation = str(item.type).removesuffix(" | None")
    kind = kinds.PATH if options is AuthOptions and annotation == "str" else _KINDS[annotation]
    kind = _KINDS_BY_NAME.get(item.name, kind)
    required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    return kind.needed() if required else kind


def _object(data: Json, what: str, name: str) -> Mapping[str, Json]:
    if not isinstance(data, dict):
        raise RecordError(f'machine "{name}": config.json: {what} is not a JSON object')
    return data
