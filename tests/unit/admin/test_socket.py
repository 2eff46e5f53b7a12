"""The admin socket's rules, on real files and sockets."""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.admin.address import is_listening, target
from federation.admin.socket import claim_socket, prepare_directory
from federation.errors import ConfigError, LockedError


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    yield directory / "run"
    shutil.rmtree(directory)


def listener(path: Path) -> socket.socket:
    """Listen on a path."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    return server


def test_the_directory_is_made_for_its_user_alone(run: Path) -> None:
    """A new directory has mode 0700, whatever the umask."""
    before = os.umask(0)
    try:
        prepare_directory(run)
    finally:
        os.umask(before)

    assert stat.S_IMODE(run.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777, 0o707])
def test_a_directory_that_others_may_enter_is_refused(run: Path, mode: int) -> None:
    """Any permission for other users is refused, with its remedy."""
    run.mkdir()
    run.chmod(mode)

    with pytest.raises(ConfigError, match=f"chmod 700 {run}"):
        prepare_directory(run)


def test_a_directory_of_another_user_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the directory could later admit other users."""
    run.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: run.stat().st_uid + 1)

    with pytest.raises(ConfigError, match="belongs to user"):
        prepare_directory(run)


def test_a_link_in_place_of_the_directory_is_refused(run: Path, tmp_path: Path) -> None:
    """A symbolic link would let its target's owner decide."""
    run.symlink_to(tmp_path)

    with pytest.raises(ConfigError, match="not a directory"):
        prepare_directory(run)


def test_a_missing_parent_is_named(run: Path) -> None:
    """A directory that cannot be created gives a readable error."""
    with pytest.raises(ConfigError, match="cannot use the directory"):
        prepare_directory(run / "deeper" / "still")


def test_a_second_claim_is_refused_while_the_first_is_held(run: Path) -> None:
    """One gateway a socket: the lock decides before anything is bound."""
    with (
        claim_socket(run / "admin.sock"),
        pytest.raises(LockedError, match=str(os.getpid())),
        claim_socket(run / "admin.sock"),
    ):
        pytest.fail("claimed twice")


def test_a_released_socket_can_be_claimed_again(run: Path) -> None:
    """Leaving the context frees the lock and removes the socket."""
    with claim_socket(run / "admin.sock"):
        server = listener(run / "admin.sock")
    server.close()

    assert not (run / "admin.sock").exists()
    with claim_socket(run / "admin.sock"):
        pass


def test_a_stale_socket_is_replaced(run: Path) -> None:
    """The socket file of a killed gateway does not stop the next gateway."""
    run.mkdir(mode=0o700)
    listener(run / "admin.sock").close()

    with claim_socket(run / "admin.sock"):
        assert not (run / "admin.sock").exists()


def test_a_socket_that_another_process_serves_is_refused(run: Path) -> None:
    """GRPC alone would silently replace a live socket; the claim refuses it."""
    run.mkdir(mode=0o700)
    with listener(run / "admin.sock"), pytest.raises(LockedError, match="another process serves"):  # noqa: SIM117
        with claim_socket(run / "admin.sock"):
            pytest.fail("claimed a live socket")

    assert (run / "admin.sock").exists()


def test_a_file_at_the_sockets_path_is_not_removed(run: Path) -> None:
    """Only a socket is ever removed."""
    run.mkdir(mode=0o700)
    (run / "admin.sock").write_text("precious")

    with pytest.raises(ConfigError, match="is not a socket"), claim_socket(run / "admin.sock"):
        pytest.fail("claimed a file")
    assert (run / "admin.sock").read_text() == "precious"


def test_a_refused_claim_leaves_the_lock_free(run: Path) -> None:
    """After the remedy the same process can claim the socket."""
    run.mkdir(mode=0o700)
    (run / "admin.sock").write_text("in the way")
    with pytest.raises(ConfigError), claim_socket(run / "admin.sock"):
        pass

    (run / "admin.sock").unlink()

    with claim_socket(run / "admin.sock"):
        pass


def test_only_a_live_socket_is_listening(run: Path) -> None:
    """Neither a missing path nor a stale socket answers; a live one does."""
    run.mkdir(mode=0o700)

    assert not is_listening(run / "admin.sock")
    listener(run / "stale.sock").close()
    assert not is_listening(run / "stale.sock")
    with listener(run / "live.sock"):
        assert is_listening(run / "live.sock")


def test_odd_characters_of_a_path_are_encoded_for_grpc() -> None:
    """A target is a URI to gRPC."""
    assert target(Path("/a b/50%#?/s")) == "unix:/a%20b/50%25%23%3F/s"
