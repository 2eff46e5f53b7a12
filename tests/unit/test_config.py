from pathlib import Path

import pytest

from federation.config import GatewayConfig, join_address, parse_address
from federation.errors import Action, ConfigError, Remedy


def write(directory: Path, text: str) -> Path:
    """Put a settings file into a directory and return the directory."""
    (directory / "gateway.toml").write_text(text, encoding="utf-8")
    return directory


def test_a_name_is_all_that_a_gateway_needs(tmp_path: Path) -> None:
    """Everything but the name has a default, and the database is in the directory."""
    config = GatewayConfig.load(write(tmp_path, 'name = "work.example"'))

    assert config.listen == "127.0.0.1:7443"
    assert config.cache.ttl_s == 30
    assert config.database_url == f"sqlite+aiosqlite:///{tmp_path}/gateway.db"
    assert config.socket_path == tmp_path / "run/admin.sock"


def test_every_table_can_be_set(tmp_path: Path) -> None:
    """Settings of nested tables are read, and a whole number may stand for a float."""
    text = 'name = "w"\nlisten = "[::1]:0"\n[circuit]\ncooldown_s = 5\nslow_call_s = 1.5\n[store]\nurl = "x"\n'
    config = GatewayConfig.load(write(tmp_path, text))

    assert (config.circuit.cooldown_s, config.circuit.slow_call_s, config.database_url) == (5.0, 1.5, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name: is missing"),
        ("name =", "gateway: .* is not TOML"),
        ('name = "Work"', "name: 'Work' is not a DNS name"),
        ('name = "-"', "name: "),
        ("name = 3", "name: must be str, not 3"),
        ('name = "w"\nlisten = "nowhere"', "listen: 'nowhere' is not host:port"),
        ('name = "w"\nenroll = "h:70000"', "enroll: '70000' is not a port"),
        ('name = "w"\nadvertise = "a b"', "advertise: "),
        ('name = "w"\nlisen = "h:1"', "lisen: unknown setting; did you mean listen?"),
        ('name = "w"\nzzz = 1', "zzz: unknown setting$"),
        ('name = "w"\n[cache]\nttls = 1', "cache.ttls: unknown setting; did you mean cache.ttl_s"),
        ('name = "w"\ncache = 1', "cache: must be a table"),
        ('name = "w"\n[cache]\nttl_s = -1.0', "cache.ttl_s: must be a positive number"),
        ('name = "w"\n[cache]\nttl_s = nan', "cache.ttl_s: must be a positive number"),
        ('name = "w"\n[cache]\nmax_bytes = 1.5', "cache.max_bytes: must be int"),
        ('name = "w"\n[certificates]\nclient_lifetime_s = 60', "client_lifetime_s: must be at least 300"),
        ('name = "w"\n[telemetry]\nlog_format = "xml"', "telemetry.log_format: must be text or json"),
        ('name = "w"\n[telemetry]\nprometheus = "9464"', "telemetry.prometheus: '9464' is not host:port"),
        ('name = "w"\n[telemetry]\nprometheus = "a:99999"', "telemetry.prometheus: '99999' is not a port"),
        ('name = "w"\n[telemetry]\nenabled = "yes"', "telemetry.enabled: must be bool"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    """Each error of the settings file names the field."""
    with pytest.raises(ConfigError, match=message):
        GatewayConfig.load(write(tmp_path, text))


def test_a_directory_without_settings_is_reported_with_the_remedy(tmp_path: Path) -> None:
    """The remedy of a directory without settings is to make a gateway in that directory."""
    with pytest.raises(ConfigError, match="is not a gateway's directory; make one") as caught:
        GatewayConfig.load(tmp_path)

    assert caught.value.remedy == Remedy(action=Action.INIT_GATEWAY, directory=str(tmp_path))


def test_a_socket_path_that_the_system_cannot_bind_is_refused(tmp_path: Path) -> None:
    """A path above the limit of Unix sockets is refused by name; without a socket such a directory is allowed."""
    config = GatewayConfig(directory=tmp_path / ("d" * 120), name="w")

    with pytest.raises(ConfigError, match=r"admin_socket: .*107 bytes"):
        _ = config.socket_path


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        ("127.0.0.1:1", "", "127.0.0.1"),
        ("0.0.0.0:1", "", "work.example"),
        ("[::]:1", "", "work.example"),
        ("[0:0:0:0:0:0:0:0]:1", "", "work.example"),
        ("localhost:1", "", "localhost"),
        ("0.0.0.0:1", "w.internal", "w.internal"),
    ],
)
def test_a_wildcard_address_is_never_advertised(listen: str, advertise: str, expected: str) -> None:
    """Peers get a host that they can dial."""
    config = GatewayConfig(directory=Path("g"), name="work.example", listen=listen, advertise=advertise)

    assert config.advertised_host == expected
    assert config.advertised("[::]:7443") == f"{expected}:7443"


def test_addresses_are_split_with_brackets_for_ipv6() -> None:
    """An IPv6 host needs brackets, loses them, and gets them back."""
    assert parse_address("[::1]:80", "listen") == ("::1", 80)
    assert (join_address("::1", 80), join_address("host", 80)) == ("[::1]:80", "host:80")
    for wrong in ("::1:80", "[host]:80", "host", ":80", "host:", "host:-1", "host:\u0661"):
        with pytest.raises(ConfigError):
            parse_address(wrong, "listen")
