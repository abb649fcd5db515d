import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_tollbooth.lightning import bolt11

KEY = 0xE126F68F7EAFCC8B74F54D269FE206BE715000F94DAC067D1C04A8CA3B2DB734

# BOLT 11, "Examples": "Please send $3 for a cup of coffee to the same peer, within one minute".
COFFEE = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqw"
    "zqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0"
    "ymjpf39tuven09sam30g4vgpfna3rh"
)


def make(**changes: object) -> str:
    values: dict[str, object] = {
        "network": "bcrt",
        "amount_msat": 250_000_000,
        "payment_hash": bytes(range(32)),
        "payment_secret": b"\x11" * 32,
        "description": "1 cup coffee",
        "created_at": 1_496_314_658,
        "expiry_seconds": 60,
        "private_key": KEY,
    }
    return bolt11.encode(**{**values, **changes})  # type: ignore[arg-type]


def test_the_specification_s_coffee_is_read() -> None:
    invoice = bolt11.decode(COFFEE)
    assert invoice.network == "bc"
    assert invoice.amount_msat == 250_000_000
    assert invoice.payment_hash.hex() == "0001020304050607080900010203040506070809000102030405060708090102"
    assert invoice.payment_secret == b"\x11" * 32
    assert invoice.description == "1 cup coffee"
    assert (invoice.expires_at - invoice.created_at).total_seconds() == 60
    assert int(invoice.created_at.timestamp()) == 1_496_314_658
    assert bolt11.decode(COFFEE.upper()) == invoice


def test_a_default_expiry_is_an_hour() -> None:
    invoice = bolt11.decode(make(expiry_seconds=3_600))
    assert (invoice.expires_at - invoice.created_at).total_seconds() == 3_600


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["bc", "tb", "tbs", "bcrt"]),
    st.integers(1, 2_100_000_000_000_000_000),
    st.binary(min_size=32, max_size=32),
    st.text(max_size=60),
    st.integers(1, 10**8),
    st.integers(0, 2**35 - 1),
)
def test_what_is_written_is_read_back(
    network: str, amount: int, payment_hash: bytes, text: str, expiry: int, now: int
) -> None:
    written = make(
        network=network,
        amount_msat=amount,
        payment_hash=payment_hash,
        description=text,
        expiry_seconds=expiry,
        created_at=now,
    )
    read = bolt11.decode(written)
    assert (read.network, read.amount_msat, read.payment_hash, read.description) == (
        network,
        amount,
        payment_hash,
        text,
    )
    assert (read.expires_at - read.created_at).total_seconds() == expiry
    assert read.created_at.timestamp() == now


@settings(max_examples=300)
@given(st.integers(0, 400), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_one_changed_character_is_noticed(position: int, char: str) -> None:
    position %= len(COFFEE)
    if COFFEE[position] == char:
        return
    with pytest.raises(bolt11.InvalidInvoice):
        bolt11.decode(COFFEE[:position] + char + COFFEE[position + 1 :])


@pytest.mark.parametrize(
    "text", ["", "1", "lnbc", "lnbc1", "LNbc2500u1" + COFFEE[10:], COFFEE + " ", "é" * 50, "q" * 9_000]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(bolt11.InvalidInvoice):
        bolt11.decode(text)


@settings(max_examples=500)
@given(st.text(max_size=200))
def test_nothing_but_invalid_invoice_is_raised(text: str) -> None:
    with pytest.raises(bolt11.InvalidInvoice):
        bolt11.decode("lnbcrt1" + text)


def reencode(human: str, words: list[int]) -> str:
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    return human + "1" + "".join(alphabet[word] for word in [*words, *bolt11._checksum(human, words)])


@settings(max_examples=500)
@given(
    st.sampled_from(["lnbc", "lnbcrt", "lnbc1p", "lnbc0u", "lnxx", "lnbc9999999999999999999999u", "lntbs5n"]),
    st.lists(st.integers(0, 31), max_size=160),
)
def test_hostile_invoices_with_a_right_checksum_are_read_or_refused(human: str, words: list[int]) -> None:
    try:
        invoice = bolt11.decode(reencode(human, words))
    except bolt11.InvalidInvoice:
        return
    assert len(invoice.payment_hash) == 32
    assert invoice.amount_msat is None or 0 < invoice.amount_msat <= 21_000_000 * 10**11


def test_signing_is_reproducible_and_depends_on_the_key() -> None:
    assert make() == make()
    assert make() != make(private_key=KEY + 1)
