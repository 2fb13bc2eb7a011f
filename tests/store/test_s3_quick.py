"""botocore made quick says the same as before."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader
from botocore.session import Session
from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st

from puller.store.s3.quick import make_quick, time_of


@pytest.fixture
def session() -> Session:
    session = Session()
    make_quick(session)
    return session


@pytest.mark.parametrize("service", ["s3", "sts", "sso", "sso-oidc"])
@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1"])
def test_the_models_of_stores_and_credentials_are_botocores(
    session: Session, service: str, kind: str
) -> None:
    loader = session.get_component("data_loader")
    assert loader.load_service_model(service, kind) == Loader().load_service_model(service, kind)


@pytest.mark.parametrize("name", ["endpoints", "partitions", "_retry", "sdk-default-configuration"])
def test_other_data_are_botocores(session: Session, name: str) -> None:
    assert session.get_component("data_loader").load_data(name) == Loader().load_data(name)


def test_an_unknown_service_is_refused(session: Session) -> None:
    with pytest.raises(UnknownServiceError):
        session.create_client("s33", region_name="us-east-1")


def test_models_of_the_users_own_directory_are_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_DATA_PATH is botocore's own variable."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "own.json").write_text('{"of": "the user"}')
    monkeypatch.setenv("AWS_DATA_PATH", str(folder))
    session = Session()
    make_quick(session)
    assert session.get_component("data_loader").load_data("own") == {"of": "the user"}


def test_a_store_in_a_bucket_does_without_numpy() -> None:
    script = (
        "import sys, puller.store.location as at; at.open_store('s3://bucket');print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))


@given(MOMENTS)
def test_times_of_listings_and_of_headers_are_botocores(moment: datetime) -> None:
    in_listing = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
    for text in (in_listing, format_datetime(moment, usegmt=True), moment.isoformat()):
        assert time_of(text) == parse_timestamp(text)
        assert time_of(text).tzinfo is not None


@pytest.mark.parametrize("value", [1796000000, "1796000000", "20261129T051233Z", 0.5])
def test_other_times_are_read_as_botocore_reads_them(value: Any) -> None:
    assert time_of(value) == parse_timestamp(value)


@pytest.mark.parametrize(
    "value", ["2026-11-29T05:12:33", "2026-11-29T05:12:33.000", "Sun Nov 29 05:12:33 2026"]
)
def test_times_without_a_zone_are_in_utc_wherever_the_host_is(value: str) -> None:
    assert time_of(value) == datetime(2026, 11, 29, 5, 12, 33, tzinfo=UTC)


@pytest.mark.parametrize("value", ["yesterday", "", None])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        time_of(value)
