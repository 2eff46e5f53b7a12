import pytest
from cryptography import x509

from federation.pki.identity_extensions import (
    GRANT_ID_OID,
    SUBJECT_OID,
    encode_text,
    identity_extensions,
    is_grant_id,
    is_subject,
    read_identity,
)
from tests.support.pki import GRANT_ID, IDENTITY_FAULTS, Pki, identity, utf8

EXPECTED = {
    "no extensions": "the grant id extension is missing",
    "grant missing": "the grant id extension is missing",
    "subject missing": "the subject extension is missing",
    "grant twice": "the grant id extension occurs twice",
    "subject twice": "the subject extension occurs twice",
    "wrong tag": "the grant id extension is not a UTF8String",
    "raw text": "the grant id extension is not a UTF8String",
    "length too long": "the grant id extension has a wrong length",
    "length too short": "the grant id extension has trailing bytes",
    "long form length": "the grant id extension has a wrong length",
    "trailing bytes": "the subject extension has trailing bytes",
    "empty value": "the subject extension is not a UTF8String",
    "tag alone": "the subject extension is not a UTF8String",
    "empty subject": "the subject is not 1 to 127 printable ASCII characters",
    "subject too long": "the subject extension has a wrong length",
    "not utf-8": "the subject extension is not UTF-8",
    "not ascii": "the subject is not 1 to 127 printable ASCII characters",
    "not printable": "the subject is not 1 to 127 printable ASCII characters",
    "grant not a uuid": "the grant id is not a UUID",
    "grant in capitals": "the grant id is not a UUID",
}


@pytest.fixture(scope="module")
def pki() -> Pki:
    """One root for all tests of this file."""
    return Pki()


@pytest.mark.parametrize("fault", IDENTITY_FAULTS)
def test_each_fault_of_an_identity_is_named(pki: Pki, fault: str) -> None:
    """A certificate with one wrong identity extension is refused with a message for its fault."""
    with pytest.raises(ValueError, match=r"^the ") as caught:
        read_identity(pki.bad_client(fault).certificate)

    assert str(caught.value) == EXPECTED[fault]


@pytest.mark.parametrize("subject", ["a", "ada lovelace", "~" * 127, 'x" OR 1=1 --'])
def test_a_good_identity_is_read(pki: Pki, subject: str) -> None:
    """One to 127 printable ASCII characters come out as they went in."""
    assert read_identity(pki.client(subject=subject).certificate) == (GRANT_ID, subject)


def test_what_the_issuer_writes_is_what_the_wire_format_says() -> None:
    """The extensions have the contract's object identifiers and DER UTF8String contents."""
    grant, subject = identity_extensions(GRANT_ID, "ada")

    assert (GRANT_ID_OID.dotted_string, SUBJECT_OID.dotted_string) == ("1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2")
    assert [(e.oid.dotted_string, e.value) for e in (grant, subject)] == list(identity())


def test_critical_identity_extensions_are_refused(pki: Pki) -> None:
    """A critical identity extension, which no handshake would pass, is refused by the reader too."""
    with pytest.raises(ValueError, match="the grant id extension is critical"):
        read_identity(pki.client(critical=True).certificate)


def test_an_unreadable_foreign_extension_is_a_refusal(pki: Pki) -> None:
    """A certificate whose other extensions are garbage is refused, not a trace of the parser."""
    leaf = pki.client(extensions=(*identity(), ("2.5.29.17", b"\x30\x03\xff\xff")))

    with pytest.raises(ValueError, match="the extensions cannot be read"):
        read_identity(leaf.certificate)


def test_a_standard_extension_under_an_identity_oid_cannot_be_passed_off(pki: Pki) -> None:
    """Other extensions beside the two are ignored."""
    leaf = pki.client(extensions=(*identity(), ("1.3.6.1.4.1.99999.7", b"\x05\x00")))

    assert read_identity(leaf.certificate) == (GRANT_ID, "ada")


@pytest.mark.parametrize("text", ["", "a" * 128, "ä" * 64])
def test_a_text_that_one_length_byte_cannot_say_is_not_encoded(text: str) -> None:
    """The encoder refuses empty texts and those of more than 127 bytes."""
    with pytest.raises(ValueError, match="must have 1 to 127 bytes"):
        encode_text(text)


def test_the_encoder_agrees_with_the_test_authority() -> None:
    """A text becomes tag, length and UTF-8 content."""
    assert encode_text("adä") == utf8("adä")


@pytest.mark.parametrize(
    ("grant_id", "subject"), [("x", "ada"), (GRANT_ID, ""), (GRANT_ID, "a\n"), (GRANT_ID.upper(), "")]
)
def test_no_issuer_can_write_what_no_reader_takes(grant_id: str, subject: str) -> None:
    """No extensions are made for an invalid identity."""
    with pytest.raises(ValueError, match="is not"):
        identity_extensions(grant_id, subject)


@pytest.mark.parametrize(
    "text", ["", GRANT_ID.replace("-", ""), "{" + GRANT_ID + "}", "urn:uuid:" + GRANT_ID, GRANT_ID + "\n"]
)
def test_only_the_canonical_form_is_a_grant_id(text: str) -> None:
    """Every other way to write a UUID is none: two texts never name one grant."""
    assert not is_grant_id(text)


@pytest.mark.parametrize("text", ["", "a" * 128, "a\n", "\x7f", "é"])
def test_what_is_no_subject(text: str) -> None:
    """A subject has 1 to 127 printable ASCII characters."""
    assert not is_subject(text)


def test_a_doubled_extension_is_what_the_test_authority_makes(pki: Pki) -> None:
    """The doubled certificate is one that the library itself reports as doubled, and its signature holds."""
    certificate = pki.bad_client("grant twice").certificate
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(pki.trust_bundle.encode()))

    with pytest.raises(x509.DuplicateExtension):
        _ = certificate.extensions
