"""What each tenant has used of what it may use: requests and pairs per second, and a share of the fleet's device time.

Token buckets, of which each router keeps its own and fills its part: the limit ÷ the number of routers. Pure: time is
an argument, in seconds of any steady clock.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rankfleet.core.errors import RateLimited
from rankfleet.core.sections import Tenant

BURST_S = 10.0  # of a rate of pairs: what may be sent at once after a pause
REQUEST_BURST_S = 1.0  # of a rate of requests: while a router reads many at once, others wait
# A router that receives, parses or checks a body, or writes a reply, answers nobody meanwhile: it is blocked. A tenant
# may block it for this part of its share, so that whatever it sends costs others a tenth of theirs at most. The first
# milliseconds of each are those of any request.
BLOCKING_PART, FREE_BLOCKING_S = 0.1, 0.002
SHARE_BURST_S = 2.0  # of a share: a burst of it may hold others up for this part of that time


@dataclass(slots=True)
class TokenBucket:
    """level: tokens in it at `at_s`; below 0 after something was taken that was larger than the bucket."""

    level: float
    at_s: float

    def refill(self, rate_per_s: float, capacity: float, now_s: float) -> float:
        """The tokens in it now."""
        self.level = min(capacity, self.level + rate_per_s * (now_s - self.at_s))
        self.at_s = now_s
        return self.level


class TenantLimits:
    """The limits of all tenants, in one router. What has no tenant has no limits."""

    def __init__(self, tenants: Mapping[str, Tenant], routers: int = 1, before: "TenantLimits | None" = None) -> None:
        """tenants: the settings of the fleet file. routers: how many share the load.
        before: those of the previous version of the fleet. What tenants have used goes on in this one."""
        self._tenants = tenants
        self._routers = routers
        shares = [settings.share for settings in tenants.values()]
        self._rest, self._without = max(0.0, 1.0 - sum(share or 0.0 for share in shares)), shares.count(None)
        self._requests: dict[str, TokenBucket] = before._requests if before else {}
        self._pairs: dict[str, TokenBucket] = before._pairs if before else {}
        self._device: dict[str, TokenBucket] = before._device if before else {}
        self._blocking: dict[str, TokenBucket] = before._blocking if before else {}
        self.blocked_s: float = before.blocked_s if before else 0.0  # by all so far

    def share_of(self, tenant: str) -> float:
        """Of the fleet's device time. Tenants without a share of their own have equal parts of the rest; if the fleet
        file names none, those that have sent something."""
        settings = self._tenants.get(tenant)
        if settings is not None and settings.share is not None:
            return settings.share
        return self._rest / (self._without or len(self._device.keys() | {tenant}))

    def take_request(self, tenant: str, now_s: float) -> None:
        """Count a request that a tenant sends. Raises RateLimited with the time to wait, and counts nothing, unless it
        fits its rate."""
        settings = self._tenants.get(tenant)
        if settings is None or settings.requests_per_s is None:
            return
        rate_per_s = settings.requests_per_s / self._routers
        capacity = max(1.0, rate_per_s * REQUEST_BURST_S)
        bucket = self._requests.setdefault(tenant, TokenBucket(capacity, now_s))
        if (missing := 1.0 - bucket.refill(rate_per_s, capacity, now_s)) > 0:
            allowed = f"the {settings.requests_per_s:g} requests per second of tenant {tenant}"
            raise RateLimited(f"more than {allowed}; wait, or send several queries in one", missing / rate_per_s)
        bucket.level -= 1.0

    def take_pairs(self, tenant: str | None, pairs: int, now_s: float, must_fit: bool = True) -> None:
        """Count pairs that a tenant sends. Raises RateLimited with the time to wait, and counts nothing, unless they
        fit its rate. More than a full bucket fits a full one, and is paid back before the next.

        must_fit: False for pairs of a request that has been let in.
        """
        settings = self._tenants.get(tenant or "")
        if tenant is None or settings is None or settings.pairs_per_s is None:
            return
        rate_per_s = settings.pairs_per_s / self._routers
        capacity = rate_per_s * BURST_S
        bucket = self._pairs.setdefault(tenant, TokenBucket(capacity, now_s))
        missing = min(pairs, capacity) - bucket.refill(rate_per_s, capacity, now_s)
        if must_fit and missing > 0:
            allowed = f"the {settings.pairs_per_s:g} pairs per second of tenant {tenant}"
            raise RateLimited(f"more than {allowed}; wait, or send fewer documents", missing / rate_per_s)
        bucket.level -= pairs

    def check_blocking(self, tenant: str | None, now_s: float) -> None:
        """Raises RateLimited with the time to wait, while a tenant has blocked the router for too long. A share of 1
        cannot be used up: there is nobody else."""
        if tenant is None or (share := self.share_of(tenant)) >= 1.0:
            return
        rate_per_s = share * BLOCKING_PART
        bucket = self._blocking.setdefault(tenant, TokenBucket(rate_per_s * BURST_S, now_s))
        if (level := bucket.refill(rate_per_s, rate_per_s * BURST_S, now_s)) < 0.0:
            why = f"the requests of tenant {tenant} block the router for longer than its share allows"
            raise RateLimited(f"{why}; wait, or send fewer texts at a time", -level / rate_per_s)

    @contextmanager
    def blocking(self, tenant: str | None, clock: Callable[[], float]) -> Iterator[None]:
        """Count the time inside as blocked by a tenant, after `check_blocking`. clock: seconds."""
        started_s = clock()
        try:
            yield
        finally:
            self.take_blocking(tenant, max(0.0, clock() - started_s - FREE_BLOCKING_S))

    def take_blocking(self, tenant: str | None, took_s: float) -> None:
        """Count so many seconds as blocked by a tenant, after `check_blocking`."""
        self.blocked_s += took_s
        if tenant in self._blocking:
            self._blocking[tenant].level -= took_s

    def is_over_share(self, tenant: str | None, now_s: float) -> bool:
        """Whether a tenant has used up its share for now. A share of 1 cannot be used up: there is nobody else."""
        if tenant is None:
            return False
        share = self.share_of(tenant)
        rate_per_s = share / self._routers
        capacity = rate_per_s * SHARE_BURST_S
        bucket = self._device.setdefault(tenant, TokenBucket(capacity, now_s))
        return bucket.refill(rate_per_s, capacity, now_s) <= 0.0 and share < 1.0

    def take_device_time(self, tenant: str | None, fleet_s: float) -> None:
        """Count work of a tenant within its share, after `is_over_share`. fleet_s: device time ÷ replicas that are
        ready, summed over the groups that do it."""
        if tenant is not None and self.share_of(tenant) < 1.0:
            self._device[tenant].level -= fleet_s
