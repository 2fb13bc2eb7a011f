"""Lifecycle rules: which reach the repository, and what they do; asking for them is tested with doctor."""

from __future__ import annotations

from typing import Any

import pytest

from puller.store.s3.bucket import LifecycleRule, parse_rule, reaches


@pytest.mark.parametrize(
    ("rule", "reached"),
    [
        ({"Filter": {}}, True),
        ({"Filter": {"Prefix": ""}}, True),
        ({"Filter": {"Prefix": "kvm/"}}, True),
        ({"Filter": {"Prefix": "k"}}, True),
        ({"Filter": {"Prefix": "kvm/packs/"}}, True),
        ({"Filter": {"Prefix": "kvm2/"}}, False),
        ({"Filter": {"Prefix": "logs/"}}, False),
        ({"Prefix": "kvm/"}, True),
        ({"Prefix": "logs/"}, False),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, False),
        ({"Filter": {"And": {"Prefix": "kvm/", "ObjectSizeGreaterThan": 1}}}, True),
        ({"Filter": {"And": {"Prefix": "kvm/", "Tags": [{"Key": "a", "Value": "b"}]}}}, False),
        ({"Filter": {}, "Status": "Disabled"}, False),
    ],
)
def test_which_rules_reach_a_prefix(rule: Any, reached: bool) -> None:
    whole: Any = {"Status": "Enabled", **rule}
    assert reaches(whole, "kvm/") == reached


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Expiration": {"Days": 3}}, (True, False, False)),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, (False, False, False)),
        ({"Transitions": [{"Days": 3, "StorageClass": "DEEP_ARCHIVE"}]}, (False, True, False)),
        ({"Transitions": [{"Days": 3, "StorageClass": "STANDARD_IA"}]}, (False, False, False)),
        ({"Transitions": [{"Days": 3, "StorageClass": "GLACIER_IR"}]}, (False, False, False)),
        ({"NoncurrentVersionExpiration": {"NoncurrentDays": 3}}, (False, False, True)),
        ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}, (False, False, False)),
    ],
)
def test_what_a_rule_does(rule: Any, expected: tuple[bool, bool, bool]) -> None:
    named: Any = {"ID": "x", **rule}
    assert parse_rule(named) == LifecycleRule("x", *expected)
