"""Servers that refuse ``Expect``, or that know the bucket in another region."""

from __future__ import annotations

import pytest

from tests.store.differences.differing import Open, documented
from tests.store.scripted import LARGE, Answer, Request, s3_error
from tests.store.stub import Quirk, Stub, stub_server


class TestExpectations:
    NOTICE = (
        "the server does not answer 'Expect: 100-continue' as it should: large objects are sent without it"
    )

    @pytest.mark.parametrize("expectation", ["refused", "dropped"])
    def test_are_left_out(self, opened: Open, expectation: str) -> None:
        with stub_server(expectation=expectation) as stub:
            it = opened(stub)
            for name in ("a", "b", "c"):
                it.store.put(name, bytes(LARGE))
            assert len(stub.objects) == 3
        assert it.notices == [documented(self.NOTICE)]

    def test_one_connection_that_was_lost_proves_nothing(self, opened: Open) -> None:
        with stub_server(expectation="dropped") as stub:
            it = opened(stub)
            it.store.put("a", bytes(LARGE))
            stub.expectation = "met"
            it.store.put("b", bytes(LARGE))
            assert stub.requests[-1].headers["expect"] == "100-continue"
        assert it.notices == []


class TestRegions:
    NOTICE = "the bucket is in region X: set AWS_DEFAULT_REGION=X to save a request"

    @staticmethod
    def refuse(answer: Answer) -> Quirk:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            elsewhere = "/eu-central-1/s3/" not in request.headers["authorization"]
            return answer if elsewhere else None

        return quirk

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(
                400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
            ),
            s3_error(
                400, "AuthorizationHeaderMalformed", "The region 'x' is wrong; expecting 'eu-central-1'"
            ),
            Answer(
                301,
                b"<Error><Code>PermanentRedirect</Code><Message>Elsewhere.</Message></Error>",
                {"x-amz-bucket-region": "eu-central-1"},
            ),
        ],
        ids=["region", "message", "redirect"],
    )
    def test_of_the_bucket_is_used(self, opened: Open, answer: Answer) -> None:
        with stub_server(self.refuse(answer)) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            assert it.store.get("a") == b"content"
            assert stub.operations == ["PutObject", "PutObject", "GetObject"]
        assert documented(self.NOTICE)
        assert it.notices == [self.NOTICE.replace("X", "eu-central-1")]

    def test_of_the_user_is_no_difference(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        with stub_server(self.refuse(s3_error(400, "AuthorizationHeaderMalformed"))) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
        assert it.notices == []
