"""Ids are trimmed, and two that read alike are found: never two patients where a person sees one."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlesion.data.identity import alike, trim, trim_cells, without_suffix

BLANKS = [" ", "\t", "\n", "\u00a0", "\u2009", "\u3000", "\ufeff", "\u200b", "\u00ad", "\u2060", "\r\n", " \u200b "]


@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_of_every_kind_are_trimmed(blank):
    assert trim(f"{blank}IP_3{blank}") == "IP_3"
    assert trim(blank) == ""
    assert trim("IP 3") == "IP 3"
    cells = trim_cells(pd.Series(["a", f"a{blank}", blank, None], dtype="string"))
    assert cells.dropna().tolist() == ["a", "a"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("IP_3", "ip_3"), ("IP_3", "IP_3.0"), ("3", "3.0"), ("3", "003"), ("3", "3,00"), ("IP_3", "\u0406P_3"),
        ("IP_3", "IP\u200b_3"), ("IP-3", "IP\u20133"), ("IP_O1", "IP_01"), ("IP_1", "IP_l"), ("IP_1", "IP_I"),
        ("caf\u00e9", "cafe\u0301"), ("\uff29\uff30_3", "IP_3"), ("stra\u00dfe", "STRASSE"), ("a b", "a\u00a0b"),
    ],
)  # fmt: skip
def test_ids_that_read_alike_are_found_in_either_order(one, other):
    assert alike([one, "x", other]) == (one, other)
    assert alike([other, "x", one]) == (other, one)
    assert alike(["x", one], ["y", other]) == (other, one)
    assert alike([one], [one]) is None


def test_other_ids_are_different():
    assert alike(["IP_3", "IP_4", "IP_33", "P3", "LI", "IL", "caf\u00e9", "cafe", "3.5", "35", "3.05", "MSKCC"]) is None
    assert alike([f"ISIC_{i:07d}" for i in range(1000)]) is None
    assert alike(["IP_3", "IP_3"]) is None


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.text(max_size=8), blank=st.sampled_from(BLANKS))
def test_a_blank_at_an_end_never_makes_another_id(text, blank):
    assert trim(trim(text) + blank) == trim(text)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".TIFF"])
def test_the_suffix_of_an_image_is_no_part_of_an_id(suffix):
    assert without_suffix(f"a.b{suffix}") == "a.b"
    assert without_suffix("a.b") == "a.b"
    assert without_suffix("jpg") == "jpg"
