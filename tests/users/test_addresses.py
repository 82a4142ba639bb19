"""Which spellings are one person's address, and what is no address at all."""

import pytest
from django.core.exceptions import ValidationError
from hypothesis import example, given
from hypothesis import strategies as st

from users.addresses import MAX_LENGTH, canonical, loosely_canonical, mask


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada@Example.COM", "ada@example.com"),
        ("  ada@example.com\n", "ada@example.com"),
        # A local part's dots and tags mean something at most hosts.
        ("a.d.a+news@example.com", "a.d.a+news@example.com"),
        # Case beyond ASCII: the sharp s, the final sigma, the Kelvin sign, and İ (which folds to i and a dot).
        ("STRASSE@example.com", "strasse@example.com"),
        ("straße@example.com", "strasse@example.com"),
        ("ΣΊΣΥΦΟΣ@example.com", "σίσυφοσ@example.com"),
        ("σίσυφος@example.com", "σίσυφοσ@example.com"),
        ("\N{KELVIN SIGN}im@example.com", "kim@example.com"),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}@example.com", "i\N{COMBINING DOT ABOVE}@example.com"),
        # The dotless i is another letter: it stays one.
        ("\N{LATIN SMALL LETTER DOTLESS I}@example.com", "\N{LATIN SMALL LETTER DOTLESS I}@example.com"),
        # Look-alikes that NFKC knows: full width, mathematical letters, ligatures, composed and decomposed.
        ("ａｄａ＠ｅｘａｍｐｌｅ．ｃｏｍ", "ada@example.com"),
        ("\N{MATHEMATICAL BOLD SMALL A}da@example.com", "ada@example.com"),
        ("ﬁona@example.com", "fiona@example.com"),
        ("jose\N{COMBINING ACUTE ACCENT}@example.com", "josé@example.com"),
        ("josé@example.com", "josé@example.com"),
        # A Cyrillic а is no Latin one, and NFKC leaves it so.
        ("\N{CYRILLIC SMALL LETTER A}da@example.com", "\N{CYRILLIC SMALL LETTER A}da@example.com"),
        # Domains in IDNA 2008 form, by UTS 46.
        ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("ada@例え.jp", "ada@xn--r8jz45g.jp"),
        ("ada@example。com", "ada@example.com"),
        # Quoted local parts are addresses (RFC 5322), if seldom.
        ('"ada@home"@example.com', '"ada@home"@example.com'),
    ],
)
def test_canonical(address, expected):
    assert canonical(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "@",
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@.com",
        "ada@example..com",
        "ada@-example.com",
        "ada@exa mple.com",
        "ada@exa_mple.com",
        "ada@[127.0.0.1]",
        "ada@" + "a" * 64 + ".com",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "ada lovelace@example.com",
        '"ada lovelace"@example.com',  # valid, but Django's rules know no quoted blank
        "ada@bob@example.com",
        "ada,bob@example.com",
        "ada<bob>@example.com",
        "Ada <ada@example.com>",
        "ada@example.com,bob@example.com",
        "ada@example.com\nBcc: bob@example.com",
        "ada\0@example.com",
        "ada\N{ZERO WIDTH SPACE}@example.com",
        "ada\N{RIGHT-TO-LEFT OVERRIDE}@example.com",
        "ada\N{NO-BREAK SPACE}lovelace@example.com",
        "ada\x7f@example.com",
        # The same beside a letter beyond ASCII.
        "ädä lovelace@example.com",
        "ädä@bob@example.com",
        "ädä@example.com,bob@example.com",
        "ädä,bob@example.com",
        "ädä<bob>@example.com",
        "ädä\n@example.com",
        ".ädä@example.com",
        "ä..dä@example.com",
        # It becomes an @, once normalized.
        "ada＠bob@example.com",
    ],
)
def test_canonical_refuses(address):
    with pytest.raises(ValidationError):
        canonical(address)


@pytest.mark.parametrize("letter", ["a", "ä", "e\N{COMBINING ACUTE ACCENT}"])
def test_canonical_refuses_what_does_not_fit(letter):
    room = MAX_LENGTH - len("@example.com")

    fits = letter * (room // len(letter)) + "@example.com"
    too_long = letter * (room // len(letter) + 1) + "@example.com"

    assert canonical(fits)
    with pytest.raises(ValidationError):
        canonical(too_long)


def test_canonical_refuses_what_only_grows_too_long():
    with pytest.raises(ValidationError):
        canonical("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 20 + "@example.com")


addresses = st.one_of(
    st.text(max_size=20),
    st.builds(
        "{}@{}".format,
        st.text(min_size=1, max_size=8),
        st.sampled_from(["example.com", "Example.COM", "bücher.example", "ſs.example"]),
    ),
)


@given(addresses)
@example("\N{GREEK CAPITAL LETTER ALPHA WITH PROSGEGRAMMENI}@example.com")
@example("\N{COMBINING GREEK YPOGEGRAMMENI}\N{COMBINING ACUTE ACCENT}x@example.com")
def test_canonical_of_anything_is_stable_or_refused(address):
    try:
        once = canonical(address)
    except ValidationError:
        return

    assert canonical(once) == once
    assert len(once) <= MAX_LENGTH
    assert once.isprintable()


@given(st.text(max_size=20))
def test_loosely_canonical_takes_anything(address):
    assert isinstance(loosely_canonical(address), str)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        (" No Address ", "no address"),
        ("", ""),
        ("ADA@exa_mple", "ada@exa_mple"),
    ],
)
def test_loosely_canonical(address, expected):
    assert loosely_canonical(address) == expected


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ada@example.com", "a***@example.com"),
        ("Ada <ada+x@example.com>, b@example.com", "Ada <a***@example.com>, b***@example.com"),
        ('"ada lovelace"@example.com', '"***@example.com'),
        ('"ada@home"@example.com', '"***@example.com'),
        ('{"Email": "ada@example.com"}', '{"Email": "a***@example.com"}'),
        (r"{\"Email\": \"ada@example.com\"}", r"{\"Email\": \"a***@example.com\"}"),
        (r'{"Email": "ada\u0040example.com"}', r'{"Email": "a***\u0040example.com"}'),
        (r"{\"Email\": \"ada\\u0040example.com\"}", r"{\"Email\": \"a***\u0040example.com\"}"),
        (r"Ada \u003cada\u0040example.com\u003e", r"Ada \u003ca***\u0040example.com\u003e"),
        (r"Ada \u003Cada\u0040example.com\u003E", r"Ada \u003Ca***\u0040example.com\u003E"),
        (r"\u0022ada lovelace\u0022\u0040example.com", r"***\u0040example.com"),
        (r"\u0061da\u0040example.com", r"***\u0040example.com"),
        ("event=x&email=ada%40example.com&y=1", "event=x&email=a***%40example.com&y=1"),
        ("email=ada%2Bnews%26x%3Dy%40example.com", "email=a***%40example.com"),
        ("email=%C3%A9ric%40example.com", "email=***%40example.com"),
        ("x=%5B%7B%22email%22%3A%22ada%40example.com%22", "x=%5B%7B%22email%22%3A%22a***%40example.com%22"),
        ("to=Ada+%3cada%40example.com%3e", "to=Ada+%3ca***%40example.com%3e"),
        ("x=%22ada+lovelace%22%40example.com", "x=***%40example.com"),
        ("url=email%253Dada%2540example.com", "url=e***%2540example.com"),
        ("", ""),
        ("no address at 3 %, 100%, \\n or @home", "no address at 3 %, 100%, \\n or @home"),
    ],
)
def test_mask(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize("sign", ["@", "%40", "%2540", r"\u0040", r"\\u0040"])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 66, 500])
def test_mask_leaves_no_half_of_a_local_part(sign, length):
    local = "xyz"[:length].ljust(length, "z")

    assert "z" not in mask(f"to={local}{sign}example.com")


@given(st.text("ab.+-_'=&/:;<> \n", max_size=60))
def test_mask_changes_nothing_but_what_stands_before_an_at(text):
    assert mask(f"{text} secret@example.com") == f"{text} s***@example.com"
