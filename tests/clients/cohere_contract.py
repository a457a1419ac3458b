"""What clients have in common that call the `cohere` package."""

from collections.abc import Mapping
from typing import Any

import cohere

from tests.clients.contract import ClientContract


class CohereContract(ClientContract):
    error = cohere.NotFoundError
    refusal = cohere.TooManyRequestsError

    def headers_of(self, refusal: Any) -> Mapping[str, str]:
        return dict(refusal.headers)
