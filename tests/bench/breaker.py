"""Measures what a closed circuit adds to a call: the policy alone, and the interceptor, net of an empty loop."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import grpc

from federation.breaker import CallResult, CircuitBreaker, Permit
from federation.client.chain.call_stats import PeerHealth
from federation.client.chain.flow import Call, Outcome, Proceed, compose
from federation.client.interceptors.breaking import BreakingInterceptor
from federation.clock import SYSTEM_CLOCK
from federation.config import CircuitConfig
from tests.bench.samples import Samples

_CHUNKS = 9
_ANSWER = Outcome(grpc.StatusCode.OK)
_CALL = Call("/v1/List", "list", "tasks", "grant", "work.example", "ada", b"", (), time.monotonic() + 86_400)


class ClosedBreaker:
    """Net microseconds per call; each round times loops with and without the circuit, in random order."""

    def __init__(self, loops: int) -> None:
        self.policy, self.interceptor = Samples(), Samples()
        self._loops = loops
        breaker = CircuitBreaker(CircuitConfig())
        interceptor = BreakingInterceptor(breaker, PeerHealth(SYSTEM_CLOCK), SYSTEM_CLOCK)
        self._with, self._without = compose((interceptor,)), compose(())
        self._breaker = breaker

    def round(self) -> None:
        """Measure one round."""
        self._add(self.policy, self._policy_loop, self._empty_loop)
        self._add(self.interceptor, lambda: self._chain_loop(self._with), lambda: self._chain_loop(self._without))

    def _add(self, samples: Samples, loop: Callable[[], Any], empty: Callable[[], Any]) -> None:
        net = [a - b for a, b in (self._pair(loop, empty) for _ in range(_CHUNKS))]
        samples.wall_us.append(median(net))
        samples.cpu_us.append(median(net))

    def _pair(self, loop: Callable[[], Any], empty: Callable[[], Any]) -> tuple[float, float]:
        took = {}
        for function in random.sample((loop, empty), 2):
            begun = time.process_time()
            function()
            took[function] = (time.process_time() - begun) * 1e6 / self._loops
        return took[loop], took[empty]

    def _policy_loop(self) -> None:
        breaker, now = self._breaker, time.monotonic()
        for _ in range(self._loops):
            permit = breaker.allow(now)
            assert isinstance(permit, Permit)
            breaker.record(permit, CallResult.SUCCESS, now, took_s=0.001)

    def _empty_loop(self) -> None:
        permit = Permit(0)
        for _ in range(self._loops):
            assert isinstance(permit, Permit)

    def _chain_loop(self, proceed: Proceed) -> None:
        for _ in range(self._loops):
            flow = proceed(_CALL)
            next(flow)
            with suppress(StopIteration):
                flow.send(_ANSWER)
