import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InputError
from federation.pki.authority import Authority
from federation.pki.enrollment_token import PREFIX, EnrollmentToken
from tests.support.pki import GRANT_ID

TOKEN = EnrollmentToken(
    endpoint="10.0.0.7:7444",
    ca_certificate_pem=Authority.create("work.example").ca_certificate_pem,
    secret="s" * 43,
    gateway="work.example",
    grant_id=GRANT_ID,
)
TEXT = TOKEN.encode()


def test_a_token_survives_its_text() -> None:
    """Decoding returns all five fields."""
    assert EnrollmentToken.decode(TEXT) == TOKEN
    assert TEXT.isascii()
    assert not any(character.isspace() for character in TEXT)


def test_a_token_pasted_in_lines_is_read() -> None:
    """Line breaks and spaces of a terminal or a mail do no harm."""
    wrapped = "\r\n ".join(TEXT[i : i + 64] for i in range(0, len(TEXT), 64))

    assert EnrollmentToken.decode(f"  {wrapped}\n") == TOKEN


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("ABCxyz019-_=+/ä\0"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    """A single changed character anywhere makes the token garbled."""
    if TEXT[position] == character:
        return
    garbled = TEXT[:position] + character + TEXT[position + 1 :]

    with pytest.raises(InputError, match=r"^token: ") as caught:
        EnrollmentToken.decode(garbled)

    assert caught.value.field == "token"


def test_every_other_last_character_is_noticed() -> None:
    """A token with other spare bits in its last character is refused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for character in alphabet.replace(TEXT[-1], ""):
        with pytest.raises(InputError, match="garbled"):
            EnrollmentToken.decode(TEXT[:-1] + character)


@given(st.integers(0, len(TEXT) - 1))
def test_a_token_cut_off_is_noticed(length: int) -> None:
    """Every proper prefix of a token is refused."""
    with pytest.raises(InputError, match=r"^token: "):
        EnrollmentToken.decode(TEXT[:length])


@given(st.text(max_size=200) | st.text(alphabet="abcXYZ-_09=", max_size=200).map(PREFIX.__add__))
def test_any_other_text_is_refused_clearly(text: str) -> None:
    """Whatever is pasted instead of a token ends as an error that names the field."""
    with pytest.raises(InputError, match=r"^token: "):
        EnrollmentToken.decode(text)


def test_a_huge_text_is_refused() -> None:
    """A token has a bound."""
    with pytest.raises(InputError, match="garbled"):
        EnrollmentToken.decode(PREFIX + "A" * 1_000_000)


def forged(head: bytes, der: bytes | None = None) -> str:
    """A text with a right checksum over whatever its maker likes."""
    if der is None:
        encoded = TEXT[len(PREFIX) :]
        der = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).partition(b"\n")[2]
    body = head + b"\n" + der
    checksum = hashlib.sha256(b"mosaic enrollment token\0" + body).digest()[:8]
    return PREFIX + base64.urlsafe_b64encode(checksum + body).decode().rstrip("=")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"[]",
        b"[1,2,3,4]",
        b'["a","b","c"]',
        b"[" * 3_000,
        b"\xff",
        b'["a:1","' + b"s" * 43 + b'","w","g","x"]',
    ],
)
def test_a_right_checksum_over_nonsense_is_refused(head: bytes) -> None:
    """A checksum proves nothing about its maker: contents are checked as well."""
    with pytest.raises(InputError, match="garbled"):
        EnrollmentToken.decode(forged(head))


def test_a_certificate_that_is_none_is_refused() -> None:
    """The authority in a token must parse."""
    with pytest.raises(InputError, match="garbled"):
        EnrollmentToken.decode(forged(b'["a:1","b","c","d"]', b"not DER"))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("endpoint", "nowhere", "endpoint is invalid"),
        ("endpoint", "host:0", "endpoint or gateway name is invalid"),
        ("endpoint", "unix:/tmp/x:1", "endpoint is invalid"),
        ("gateway", "Work Example", "endpoint or gateway name is invalid"),
        ("gateway", "", "endpoint or gateway name is invalid"),
        ("secret", "short", "secret or grant id is malformed"),
        ("secret", "s" * 42 + "\n", "secret or grant id is malformed"),
        ("grant_id", "1", "secret or grant id is malformed"),
    ],
)
def test_a_forged_token_with_a_right_checksum_is_refused(field: str, value: str, complaint: str) -> None:
    """Endpoint, gateway name, secret and grant id are held to their forms."""
    with pytest.raises(InputError, match=complaint):
        EnrollmentToken.decode(replace(TOKEN, **{field: value}).encode())


def test_the_secret_is_not_shown_by_repr() -> None:
    """The repr of a token contains no secret."""
    assert "sss" not in repr(TOKEN)
