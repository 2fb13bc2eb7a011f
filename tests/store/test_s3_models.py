"""botocore's models, loaded faster, are the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader
from botocore.session import Session

from puller.store.s3.models import load_models_fast


@pytest.fixture
def session() -> Session:
    session = Session()
    load_models_fast(session)
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
    load_models_fast(session)
    assert session.get_component("data_loader").load_data("own") == {"of": "the user"}


def test_a_store_in_a_bucket_needs_neither_boto3_nor_numpy() -> None:
    script = (
        "import sys, puller.store.location as at; at.open_store('s3://bucket');"
        "print(sorted({'boto3', 's3transfer', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
