"""A card that is written anew over an edited one leaves what people wrote."""

from __future__ import annotations

import pytest
import yaml

from align_train.errors import UserError
from align_train.pretrained import BEGIN
from align_train.pretrained.card import END
from align_train.pretrained.card_merge import merged


def card(text: str = "first", **metadata: object) -> str:
    head = yaml.safe_dump({"library_name": "transformers", **metadata}, sort_keys=False)
    return f"---\n{head}---\n\n{BEGIN}\n# mine\n\n{text}\n{END}\n"


def head(text: str) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return content


def test_the_same_card_again_is_the_same_text() -> None:
    once = merged(card(tags=["a"]), None)
    assert merged(card(tags=["a"]), once) == once


def test_text_around_our_part_stays_to_the_letter() -> None:
    there = merged(card(), None).replace(BEGIN, f"Hand-written: é\r\n{BEGIN}") + "\n## Limits\n"
    again = merged(card("second"), there)
    assert "Hand-written: é\r\n" in again and again.endswith("\n## Limits\n")
    assert "second" in again and "first" not in again
    assert merged(card("second"), again) == again


def test_keys_that_were_changed_added_or_removed_stay_and_ours_are_renewed() -> None:
    there = merged(card(tags=["a"], pipeline_tag="x", loss=1), None)
    there = there.replace(
        "pipeline_tag: x", "pipeline_tag: mine  # by hand\nlanguage: no\nextra: [1, 2]"
    )
    there = there.replace("loss: 1\n", "")
    again = merged(card(tags=["b"], pipeline_tag="y", loss=2, fresh="z"), there)
    assert "pipeline_tag: mine  # by hand\nlanguage: no\nextra: [1, 2]\n" in again
    found = head(again)
    assert found["tags"] == ["b"] and found["fresh"] == "z" and "loss" not in found
    # What we wrote and write no more goes.
    assert "fresh" not in head(merged(card(tags=["b"]), again))


def test_a_card_that_was_never_ours_stays_before_our_part() -> None:
    again = merged(card(), "# Their title\n\nText.\n")
    assert again.index("Their title") < again.index(BEGIN)
    assert head(again) == {"library_name": "transformers"}
    there = "---\nlicense: mit\nlibrary_name: timm\n---\n# T\n"
    assert head(merged(card(), there)) == {"license": "mit", "library_name": "timm"}


def test_text_between_a_lost_end_and_the_next_beginning_is_not_taken() -> None:
    there = merged(card(), None).replace(END, "") + "Hand-written.\n"
    once = merged(card("second"), there)
    assert "Hand-written." in once and once.count(END) == 1
    assert "Hand-written." in merged(card("third"), once)


@pytest.mark.parametrize("value", ["[1", "{a: b", "'"])
def test_metadata_that_is_no_yaml_is_one_line(value: str) -> None:
    with pytest.raises(UserError, match=r"README.md on the hub: .* is no YAML; mend it there"):
        merged(card(), f"---\nlicense: {value}\n---\ntext\n")
