import base64
import os
import stat

import pytest

from federation.errors import ConflictError, SealError
from federation.pki.sealing import SEAL_KEY_FILE, Sealer

KEY = bytes(range(32))


def test_what_was_sealed_opens_again_under_the_stored_key(tmp_path) -> None:
    """A second process that reads the key file opens what the first sealed."""
    sealed = Sealer.create(tmp_path, {}).seal(b"secret", "server key")

    assert Sealer.load(tmp_path, {}).open(sealed, "server key") == b"secret"


def test_the_key_file_is_the_owners_alone(tmp_path) -> None:
    """The file is made with mode 0600 whatever the umask."""
    old = os.umask(0)
    try:
        Sealer.create(tmp_path, {})
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / SEAL_KEY_FILE).stat().st_mode) == 0o600


def test_an_existing_key_file_is_never_overwritten(tmp_path) -> None:
    """A second `create` refuses and leaves the key as it was."""
    Sealer.create(tmp_path, {})
    before = (tmp_path / SEAL_KEY_FILE).read_bytes()

    with pytest.raises(ConflictError, match="exists already"):
        Sealer.create(tmp_path, {})

    assert (tmp_path / SEAL_KEY_FILE).read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path, mode: int) -> None:
    """The error names the mode and the command that cures it."""
    Sealer.create(tmp_path, {})
    (tmp_path / SEAL_KEY_FILE).chmod(mode)

    with pytest.raises(SealError, match=rf"mode {mode:04o}.*chmod 600"):
        Sealer.load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "is missing: restore"),
        (b"", "must hold 32 bytes"),
        (b"ab" * 31, "must hold 32 bytes"),
        (b"\xff" * 64, "must"),
    ],
)
def test_a_missing_or_broken_key_file_says_what_to_do(tmp_path, content: bytes | None, complaint: str) -> None:
    """Each fault of the file is one clear sentence."""
    if content is not None:
        path = tmp_path / SEAL_KEY_FILE
        path.write_bytes(content)
        path.chmod(0o600)

    with pytest.raises(SealError, match=complaint):
        Sealer.load(tmp_path, {})


def test_a_directory_in_place_of_the_key_file_is_refused(tmp_path) -> None:
    """A key file that is not a regular file is not read."""
    (tmp_path / SEAL_KEY_FILE).mkdir(mode=0o700)

    with pytest.raises(SealError, match=SEAL_KEY_FILE):
        Sealer.load(tmp_path, {})


def test_create_in_a_missing_directory_is_refused(tmp_path) -> None:
    """The system's reason is in the message."""
    with pytest.raises(SealError, match="No such file or directory"):
        Sealer.create(tmp_path / "absent", {})


@pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper(), base64.b64encode(KEY).decode(), f" {KEY.hex()}\n"])
def test_the_variable_wins_and_writes_no_file(tmp_path, text: str) -> None:
    """MOSAIC_SEAL_KEY holds 64 hexadecimal digits or base64, and no key file is made or read."""
    environment = {"MOSAIC_SEAL_KEY": text}
    sealed = Sealer.create(tmp_path, environment).seal(b"x", "p")

    assert Sealer.load(tmp_path, environment).open(sealed, "p") == b"x"
    assert Sealer(KEY).open(sealed, "p") == b"x"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["short", "zz" * 32, base64.b64encode(b"x" * 31).decode(), "ä" * 44])
def test_a_wrong_variable_is_refused_without_showing_it(tmp_path, text: str) -> None:
    """The error names the variable and the form, never the value."""
    with pytest.raises(SealError, match=r"^\$MOSAIC_SEAL_KEY must hold 32 bytes") as caught:
        Sealer.load(tmp_path, {"MOSAIC_SEAL_KEY": text})

    assert text not in str(caught.value)


def test_every_changed_byte_is_noticed() -> None:
    """Sealed bytes open unchanged or not at all."""
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"secret", "p")
    for i in range(len(sealed)):
        changed = sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]
        with pytest.raises(SealError):
            sealer.open(changed, "p")


@pytest.mark.parametrize("length", range(32))
def test_cut_off_bytes_are_noticed(length: int) -> None:
    """A sealed value that was cut off is refused, however short."""
    sealer = Sealer(KEY)

    with pytest.raises(SealError):
        sealer.open(sealer.seal(b"", "p")[:length], "p")


def test_a_purpose_is_bound_in() -> None:
    """A secret sealed for one purpose does not open for another, and the error names the purpose and the cure."""
    sealed = Sealer(KEY).seal(b"secret", "key of peer 1")

    with pytest.raises(SealError, match=r"key of peer 2 cannot be opened.*restore"):
        Sealer(KEY).open(sealed, "key of peer 2")


def test_another_key_opens_nothing() -> None:
    """The error names another seal key as a possible cause."""
    with pytest.raises(SealError, match="another seal key"):
        Sealer(bytes(32)).open(Sealer(KEY).seal(b"secret", "p"), "p")


def test_sealing_twice_gives_different_bytes() -> None:
    """Each sealing has a nonce of its own."""
    sealer = Sealer(KEY)

    assert sealer.seal(b"secret", "p") != sealer.seal(b"secret", "p")
    assert b"secret" not in sealer.seal(b"secret", "p")


def test_derived_keys_differ_by_purpose_and_key() -> None:
    """Derived keys are stable, 32 bytes long, and unrelated to each other."""
    derived = {Sealer(key).derive(purpose) for key in (KEY, bytes(32)) for purpose in ("page-token", "other")}

    assert len(derived) == 4
    assert {len(key) for key in derived} == {32}
    assert Sealer(KEY).derive("other") == Sealer(KEY).derive("other")
    assert KEY not in derived


def test_a_key_of_another_size_is_refused() -> None:
    """A sealer needs exactly 32 bytes."""
    with pytest.raises(SealError, match="32 bytes, not 16"):
        Sealer(bytes(16))
