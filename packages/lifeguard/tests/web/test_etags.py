"""Which versions a client agrees to change."""

import pytest
from lifeguard.web import etags


@pytest.mark.parametrize(
    ("if_match", "versions"),
    [
        ("*", None),
        ('"1"', [1]),
        ('"1", "22"', [1, 22]),
        ('"1"\t,"2"', [1, 2]),
        ('W/"1"', []),
        ('W/"1", "2"', [2]),
        ('"x"', []),
        ('""', []),
        ('"01"', []),
        ('"-1"', []),
        ('"2147483647"', [2147483647]),
        ('"2147483648"', []),
        ('"99999999999999999999"', []),
    ],
)
def test_strong_tags_of_ours_are_versions_and_no_others(if_match: str, versions: list[int] | None) -> None:
    assert etags.versions(if_match) == versions


def test_a_version_leads_back_to_itself() -> None:
    assert etags.versions(etags.etag(7)) == [7]


def test_who_names_none_is_asked_to() -> None:
    with pytest.raises(etags.PreconditionRequired):
        etags.versions(None)
