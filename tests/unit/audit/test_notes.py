"""Signed notes: against notes that public logs and a public witness signed, and against tampering."""

from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.merkle import EMPTY_ROOT
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_TIME_S,
    BadKey,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    Signature,
    SignerKey,
    Verified,
    VerifierKey,
    cosign,
    decode_base64,
    decode_decimal,
    encode_base64,
    format_checkpoint,
    generate_key,
    parse_checkpoint,
    parse_note,
    parse_signer_key,
    parse_verifier_key,
    read_signer_key,
    sign,
    verify_note,
    write_signer_key,
)

# A tree head that the public Go checksum database signed.
PUBLIC_LOG_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
PUBLIC_LOG_NOTE = """\
go.sum database tree
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— sum.golang.org Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""
# A tree head of a public certificate log, with the log's own signature (of a type unknown here) and a witness's.
PUBLIC_WITNESS_KEY = "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G"
PUBLIC_WITNESS_TIME_S = 1_785_704_691
PUBLIC_WITNESS_NOTE = (
    "coachandhorses2026h1.staging.certificate.transparency.goog\n"
    "185550722\n"
    "YXAM0VmnrfvLaBCOOYSJhCaE5F10oGBOo+hkbDa1kng=\n"
    "\n"
    "— coachandhorses2026h1.staging.certificate.transparency.goog "
    "MpXgsHy8ZwxXnO+WjtVrPxAzL49Rs1gWTkNVNeEa//5peAzaocRCB3qt3EaibjzY5GILLtGgBP7dBhgcSHy+JQh0OAc=\n"
    "— witness.navigli.sunlight.geomys.org "
    "o+AP4gAAAABqb7DzNrGFRJnQ9vrJ8xpnwZytnr/ZYczDIsvwvouiSjwOjn7a72ccxBk+lKnZ7dKqkYKER1s/KxLTaVwQD7lJZTC/CQ==\n"
)
# The first key of RFC 8032 section 7.1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

LOG = SignerKey("example.com/log", ED25519, SEED)
WITNESS = SignerKey("example.org/witness", COSIGNATURE_V1, bytes(range(32)))
OTHER = SignerKey("example.net/other", ED25519, bytes(range(1, 33)))
TEXT = format_checkpoint(Checkpoint("example.com/log", 5, bytes(range(32))))
TIME_S = 1_700_000_000


def _note(*signatures: Signature, text: str = TEXT) -> Note:
    return Note(text, signatures)


def _flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]


# --- what others signed ---


def test_a_public_logs_note_verifies_against_its_published_key() -> None:
    key = parse_verifier_key(PUBLIC_LOG_KEY)
    note = parse_note(PUBLIC_LOG_NOTE.encode())
    assert verify_note(note, [key]) == [Verified(key, None)]
    assert parse_checkpoint(note.text).size == 20_852_163
    assert note.to_bytes().decode() == PUBLIC_LOG_NOTE


def test_a_public_witness_verifies_and_the_unknown_log_is_ignored() -> None:
    key = parse_verifier_key(PUBLIC_WITNESS_KEY)
    note = parse_note(PUBLIC_WITNESS_NOTE.encode())
    assert verify_note(note, [key]) == [Verified(key, PUBLIC_WITNESS_TIME_S)]
    assert note.to_bytes().decode() == PUBLIC_WITNESS_NOTE


@pytest.mark.parametrize("text", [PUBLIC_LOG_KEY, PUBLIC_WITNESS_KEY])
def test_a_published_key_keeps_its_spelling(text: str) -> None:
    assert str(parse_verifier_key(text)) == text


@pytest.mark.parametrize(
    ("text", "key"), [(PUBLIC_LOG_NOTE, PUBLIC_LOG_KEY), (PUBLIC_WITNESS_NOTE, PUBLIC_WITNESS_KEY)]
)
def test_a_public_note_with_one_bit_of_its_text_changed_is_refused(text: str, key: str) -> None:
    note = parse_note(text.encode())
    body, rest = note.text.encode(), note.to_bytes()[len(note.text.encode()) :]
    for changed in _flips(body):
        with pytest.raises(BadNote):
            verify_note(parse_note(changed + rest), [parse_verifier_key(key)])


# --- keys ---


def test_the_key_forms_are_name_id_and_typed_key() -> None:
    key_id = sha256(b"example.com/log\n\x01" + PUBLIC).hexdigest()[:8]
    public, private = b64encode(b"\x01" + PUBLIC).decode(), b64encode(b"\x01" + SEED).decode()
    assert str(LOG.verifier) == f"example.com/log+{key_id}+{public}"
    assert LOG.private_text() == f"PRIVATE+KEY+example.com/log+{key_id}+{private}"
    assert parse_signer_key(LOG.private_text()) == LOG
    assert parse_verifier_key(str(LOG.verifier)) == LOG.verifier == VerifierKey("example.com/log", ED25519, PUBLIC)


def test_one_key_has_another_id_for_another_use_or_name() -> None:
    keys = [LOG, replace(LOG, algorithm=COSIGNATURE_V1), replace(LOG, name="example.com/log2")]
    assert len({key.verifier.key_id for key in keys}) == 3


def test_a_key_text_with_one_bit_changed_is_refused() -> None:
    for changed in _flips(str(LOG.verifier).encode()):
        with pytest.raises(BadKey):
            parse_verifier_key(changed.decode("latin-1"))
    for changed in _flips(LOG.private_text().encode()):
        with pytest.raises(BadKey):
            parse_signer_key(changed.decode("latin-1"))


def test_a_part_of_a_key_text_is_refused() -> None:
    for text, parse in ((str(LOG.verifier), parse_verifier_key), (LOG.private_text(), parse_signer_key)):
        for begin in range(len(text)):
            for end in range(begin, len(text) + 1):
                if end - begin < len(text):
                    with pytest.raises(BadKey):
                        parse(text[begin:end])


def test_a_private_key_is_not_taken_for_a_public_one_or_the_reverse() -> None:
    with pytest.raises(BadKey):
        parse_verifier_key(LOG.private_text())
    with pytest.raises(BadKey):
        parse_signer_key(str(LOG.verifier))


def _typed(material: bytes) -> str:
    key_id = sha256(b"example.com/log\n" + material).hexdigest()[:8]
    return f"example.com/log+{key_id}+{b64encode(material).decode()}"


def test_a_key_of_an_unknown_type_or_length_is_refused() -> None:
    parse_verifier_key(_typed(b"\x01" + PUBLIC))
    for material in (b"\x02" + PUBLIC, b"\x06" + PUBLIC, b"\x01" + PUBLIC[1:], b"\x01" + PUBLIC + b"\0", b"\x01", b""):
        with pytest.raises(BadKey):
            parse_verifier_key(_typed(material))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\x00b", "a\x7fb", "a\ud800"])
def test_a_name_that_a_note_cannot_carry_makes_no_key(name: str) -> None:
    with pytest.raises(BadKey):
        generate_key(name, ED25519)


def test_a_key_for_an_unknown_algorithm_is_not_made() -> None:
    with pytest.raises(BadKey):
        generate_key("example.com/log", 2)


def test_generated_keys_differ_and_ask_for_32_random_bytes() -> None:
    assert generate_key("n", ED25519).seed != generate_key("n", ED25519).seed
    assert generate_key("n", ED25519, lambda count: bytes(count)).seed == bytes(32)


def test_no_secret_is_shown_by_accident() -> None:
    assert SEED.hex() not in repr(LOG)
    assert "seed" not in repr(LOG)
    with pytest.raises(BadKey) as raised:
        parse_signer_key(LOG.private_text() + "A")
    assert b64encode(SEED).decode()[:8] not in str(raised.value)


def test_a_key_file_is_read_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    write_signer_key(path, LOG)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signer_key(path) == LOG


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    write_signer_key(path, LOG)
    with pytest.raises(FileExistsError):
        write_signer_key(path, OTHER)
    assert read_signer_key(path) == LOG


@pytest.mark.parametrize("data", [b"", b"\xff", b"PRIVATE+KEY+", LOG.private_text().encode() + b"\n\n", b"x" * 9_999])
def test_a_file_that_is_not_one_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log.key").write_bytes(data)
    with pytest.raises(BadKey):
        read_signer_key(tmp_path / "log.key")


# --- signing and verifying ---


def test_a_log_signs_the_text_and_nothing_else() -> None:
    line = sign(TEXT, LOG).line()
    assert line.startswith("— example.com/log ")
    data = b64decode(line.split(" ")[2])
    assert data[:4] == LOG.verifier.key_id
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(data[4:], TEXT.encode())


def test_a_witness_signs_header_time_and_text() -> None:
    data = b64decode(cosign(TEXT, WITNESS, TIME_S).line().split(" ")[2])
    assert data[:4] == WITNESS.verifier.key_id
    assert data[4:12] == TIME_S.to_bytes(8, "big")
    message = f"cosignature/v1\ntime {TIME_S}\n{TEXT}".encode()
    Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public_key).verify(data[12:], message)


def test_a_note_signed_by_log_and_witness_verifies() -> None:
    note = _note(sign(TEXT, LOG)).with_signatures([cosign(TEXT, WITNESS, TIME_S)])
    again = parse_note(note.to_bytes())
    assert again == note
    expected = [Verified(LOG.verifier, None), Verified(WITNESS.verifier, TIME_S)]
    assert verify_note(again, [WITNESS.verifier, LOG.verifier, OTHER.verifier]) == expected


def test_a_note_with_one_bit_changed_anywhere_is_refused() -> None:
    for signature in (sign(TEXT, LOG), cosign(TEXT, WITNESS, TIME_S)):
        data = _note(signature).to_bytes()
        assert verify_note(parse_note(data), [LOG.verifier, WITNESS.verifier])
        for changed in _flips(data):
            with pytest.raises(BadNote):
                verify_note(parse_note(changed), [LOG.verifier, WITNESS.verifier])


def test_a_note_cut_anywhere_is_refused() -> None:
    data = _note(sign(TEXT, LOG)).to_bytes()
    for length in range(len(data)):
        with pytest.raises(BadNote):
            verify_note(parse_note(data[:length]), [LOG.verifier])


def test_a_bad_signature_of_a_known_key_spoils_the_note_beside_a_good_one() -> None:
    good, bad = sign(TEXT, LOG), replace(sign(TEXT, OTHER), value=bytes(64))
    for note in (_note(good, bad), _note(bad, good), _note(good, replace(good, value=bytes(64)))):
        with pytest.raises(BadSignature, match="not good"):
            verify_note(note, [LOG.verifier, OTHER.verifier])


def test_a_bad_signature_of_an_unknown_key_is_ignored() -> None:
    note = _note(sign(TEXT, LOG), replace(sign(TEXT, OTHER), value=bytes(64)))
    assert verify_note(note, [LOG.verifier]) == [Verified(LOG.verifier, None)]


@pytest.mark.parametrize("change", [{"name": "example.com/elsewhere"}, {"key_id": bytes(4)}])
def test_name_and_id_must_both_be_the_keys(change: dict[str, str]) -> None:
    with pytest.raises(BadSignature, match="no known key"):
        verify_note(_note(replace(sign(TEXT, LOG), **change)), [LOG.verifier])


def test_a_note_without_a_known_signature_says_nothing() -> None:
    for keys in ([], [OTHER.verifier]):
        with pytest.raises(BadSignature, match="no known key"):
            verify_note(_note(sign(TEXT, LOG)), keys)


def test_a_key_that_signed_twice_counts_once() -> None:
    first, second = cosign(TEXT, WITNESS, TIME_S), cosign(TEXT, WITNESS, TIME_S + 1)
    assert verify_note(_note(first, second), [WITNESS.verifier]) == [Verified(WITNESS.verifier, TIME_S)]
    assert _note(first).with_signatures([first, second, first]).signatures == (first, second, first)[:2]


def test_two_keys_under_one_name_and_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A real pair takes some 2**32 attempts; the id is what is compared, so the test makes it equal.
    monkeypatch.setattr(VerifierKey, "key_id", property(lambda self: b"same"))
    with pytest.raises(BadKey, match="one name and id"):
        verify_note(_note(sign(TEXT, LOG)), [LOG.verifier, replace(LOG.verifier, public_key=bytes(32))])


def test_a_cosignature_is_not_taken_for_a_signature_or_the_reverse() -> None:
    as_log, as_witness = replace(WITNESS, algorithm=ED25519), replace(LOG, algorithm=COSIGNATURE_V1)
    cosigned, signed = cosign(TEXT, WITNESS, TIME_S), sign(TEXT, LOG)
    for value, key in ((cosigned.value, as_log), (cosigned.value[8:], as_log), (signed.value, as_witness)):
        signature = Signature(key.name, key.verifier.key_id, value)
        with pytest.raises(BadSignature):
            verify_note(_note(signature), [key.verifier])


def test_a_cosignature_moved_to_another_time_is_refused() -> None:
    signature = cosign(TEXT, WITNESS, TIME_S)
    for time_s in (0, TIME_S + 1, MAX_TIME_S, MAX_TIME_S + 1):
        with pytest.raises(BadSignature):
            moved = replace(signature, value=time_s.to_bytes(8, "big") + signature.value[8:])
            verify_note(_note(moved), [WITNESS.verifier])


def test_a_cosignature_of_a_time_beyond_the_limit_is_refused_although_it_is_signed() -> None:
    for time_s, good in ((MAX_TIME_S, True), (MAX_TIME_S + 1, False)):
        message = f"cosignature/v1\ntime {time_s}\n{TEXT}".encode()
        value = time_s.to_bytes(8, "big") + Ed25519PrivateKey.from_private_bytes(WITNESS.seed).sign(message)
        note = _note(Signature(WITNESS.name, WITNESS.verifier.key_id, value))
        if good:
            assert verify_note(note, [WITNESS.verifier]) == [Verified(WITNESS.verifier, time_s)]
        else:
            with pytest.raises(BadSignature, match="time"):
                verify_note(note, [WITNESS.verifier])


@pytest.mark.parametrize("key", [LOG, WITNESS])
def test_a_signature_of_another_length_is_refused(key: SignerKey) -> None:
    value = bytes(80)
    for length in range(1, 81):
        with pytest.raises(BadSignature):
            verify_note(_note(Signature(key.name, key.verifier.key_id, value[:length])), [key.verifier])


def test_a_log_does_not_sign_what_would_be_a_cosignature() -> None:
    with pytest.raises(BadNote):
        sign(f"cosignature/v1\ntime {TIME_S}\n{TEXT}", LOG)


@pytest.mark.parametrize("text", ["", "no newline", "tab\there\n", "\x00\n", "lone \ud800\n", "a\r\n"])
def test_a_text_that_no_note_may_have_is_not_signed(text: str) -> None:
    with pytest.raises(BadNote):
        sign(text, LOG)


def test_a_witness_cosigns_only_checkpoints() -> None:
    with pytest.raises(BadNote):
        cosign("any text\n", WITNESS, TIME_S)


@pytest.mark.parametrize("time_s", [-1, MAX_TIME_S + 1])
def test_a_witness_signs_no_impossible_time(time_s: int) -> None:
    with pytest.raises(ValueError, match="time"):
        cosign(TEXT, WITNESS, time_s)


def test_a_key_signs_only_in_its_own_way() -> None:
    with pytest.raises(BadKey):
        sign(TEXT, WITNESS)
    with pytest.raises(BadKey):
        cosign(TEXT, LOG, TIME_S)


# --- parsing notes ---


def test_the_text_may_have_empty_lines_and_ends_at_the_last() -> None:
    for text in ("a\n\nb\n", "\na\n", "a\n\n", "\n"):
        note = _note(sign(text, LOG), text=text)
        assert parse_note(note.to_bytes()) == note
        assert verify_note(parse_note(note.to_bytes()), [LOG.verifier])


LINE = sign(TEXT, LOG).line()


@pytest.mark.parametrize(
    "data",
    [
        "",
        "\n\n",
        TEXT,
        TEXT + "\n",
        TEXT + "\n\n" + LINE[:-1],
        TEXT + LINE,
        "\n" + LINE,
        TEXT + "\n" + LINE + "\n",
        TEXT + "\n" + LINE + "another line\n",
        TEXT + "\n" + LINE.replace("— ", "- "),
        TEXT + "\n" + LINE.replace("— ", "—"),
        TEXT + "\n" + LINE.replace("— ", "—  "),
        TEXT + "\n" + LINE.replace("\n", " \n"),
        TEXT + "\n" + LINE.replace("\n", "\r\n"),
        TEXT + "\n" + LINE.replace("example", "exam+ple"),
        TEXT + "\n" + LINE.replace("example", "exam ple"),
        TEXT + "\n" + LINE.replace("example", "exam\u00a0ple"),
        TEXT + "\n— example.com/log \n",
        TEXT + "\n— example.com/log\n",
        TEXT + "\n— example.com/log AAAAAA==\n",
        TEXT + "\n— example.com/log AAAAAAB=\n",
        TEXT + "\n— example.com/log AAAAAAA\n",
        TEXT + "\n— example.com/log AAAA-_AA\n",
        "\x00" + TEXT + "\n" + LINE,
        "a\ttab\n\n" + LINE,
        TEXT + "\n" + LINE * (MAX_SIGNATURES + 1),
        "x" * MAX_NOTE_BYTES + "\n\n" + LINE,
    ],
)
def test_a_malformed_note_is_refused(data: str) -> None:
    with pytest.raises(BadNote):
        parse_note(data.encode())


def test_a_note_that_is_not_utf_8_is_refused() -> None:
    for junk in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        with pytest.raises(BadNote):
            parse_note(junk + TEXT.encode() + b"\n" + LINE.encode())


def test_as_many_signatures_as_the_limit_are_read() -> None:
    assert len(parse_note(f"{TEXT}\n{LINE * MAX_SIGNATURES}".encode()).signatures) == MAX_SIGNATURES


@given(st.binary(max_size=200) | st.text(alphabet="a \n—+=A0", max_size=60).map(str.encode))
def test_any_bytes_are_refused_or_are_the_note_they_spell(data: bytes) -> None:
    try:
        note = parse_note(data)
    except BadNote:
        return
    assert note.to_bytes() == data


# --- checkpoints ---


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("example.com/log", 5, bytes(range(32))),
        Checkpoint("an origin with spaces + plus", 2**63 - 1, bytes(32)),
        Checkpoint("o", 0, EMPTY_ROOT),
        Checkpoint("o", 1, bytes(32), ("an extension", "another")),
    ],
)
def test_a_checkpoint_is_read_back(checkpoint: Checkpoint) -> None:
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


def test_a_checkpoint_has_the_form_of_the_specification() -> None:
    assert TEXT.split("\n") == ["example.com/log", "5", b64encode(bytes(range(32))).decode(), ""]


ROOT = encode_base64(bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"o\n5\n{ROOT}",
        f"\n5\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        "o\n5\n",
        "o\n5\n\n",
        f"o\n5\n{ROOT}\n\n",
        f"o\n5\n{ROOT}\n\nextension\n",
        f"o\n05\n{ROOT}\n",
        f"o\n+5\n{ROOT}\n",
        f"o\n-5\n{ROOT}\n",
        f"o\n5_0\n{ROOT}\n",
        f"o\n5 \n{ROOT}\n",
        f"o\n\u0665\n{ROOT}\n",
        f"o\n\u00b2\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{'1' * 5000}\n{ROOT}\n",
        f"o\n5\n{ROOT[:-1]}\n",
        f"o\n5\n{encode_base64(bytes(31))}\n",
        f"o\n5\n{encode_base64(bytes(33))}\n",
        f"o\n5\n{ROOT[:-2]}B=\n",
        f"o\n0\n{ROOT}\n",
        f"o\t\n5\n{ROOT}\n",
    ],
)
def test_a_text_that_is_not_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadNote):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 5, bytes(32)),
        Checkpoint("a\nb", 5, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 5, bytes(31)),
        Checkpoint("a", 0, bytes(32)),
        Checkpoint("a", 5, bytes(32), ("",)),
        Checkpoint("a", 5, bytes(32), ("b\nc",)),
    ],
)
def test_a_checkpoint_that_would_not_read_back_is_not_written(checkpoint: Checkpoint) -> None:
    with pytest.raises(BadNote):
        format_checkpoint(checkpoint)


# --- spelling ---


@given(st.binary(max_size=80))
def test_base64_reads_back(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data


@given(st.text(alphabet="AB/+=9 \n_-é", max_size=12))
def test_base64_has_one_spelling(text: str) -> None:
    data = decode_base64(text)
    assert data is None or b64encode(data).decode() == text


@given(st.text(max_size=4) | st.integers(-2, 2**64).map(str))
def test_a_decimal_has_one_spelling(text: str) -> None:
    number = decode_decimal(text)
    assert number is None or (str(number) == text and 0 <= number < 2**63)


def test_decimals_reach_from_0_to_the_limit() -> None:
    assert [decode_decimal(text) for text in ("0", "42", str(2**63 - 1), str(2**63))] == [0, 42, 2**63 - 1, None]
