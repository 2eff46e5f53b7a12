"""The circuit breaker against a model that stores the whole history and decides by reading it."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from federation.breaker import PROBE_WAIT_S, CallResult, CircuitBreaker, CircuitState, Denied, Permit
from federation.config import CircuitConfig

THRESHOLD = 3


@dataclass
class Model:
    """The promises in their plainest form: an era ends with each change; only its own calls count."""

    state: str = "closed"
    era: int = 0
    results: list[CallResult] = field(default_factory=list)
    probe: int | None = None
    probe_ends: float = 0.0
    failed_probes: int = 0
    until: float = 0.0

    def transition_to(self, state: str) -> None:
        self.state, self.era, self.results, self.probe = state, self.era + 1, [], None

    def open(self, now: float) -> None:
        self.until = now + min(30.0 * 2**self.failed_probes, 300.0)
        self.transition_to("open")

    def trips(self) -> bool:
        counted = [result for result in self.results if result is not CallResult.IGNORED]
        return counted[-THRESHOLD:] == [CallResult.FAILURE] * THRESHOLD


class BreakerAgainstModel(RuleBasedStateMachine):
    """Calls begin and end in any order, time passes, an operator resets."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(CircuitConfig(failure_threshold=THRESHOLD, jitter=0.0), lambda: 0.5)
        self.model = Model()
        self.now = 0.0
        self.calls = 0
        self.generation = 0

    def transition(self, before: str, after: str, generation: int) -> None:
        assert before != after
        assert generation > self.generation
        self.generation = generation

    @rule(target=permits, budget_s=st.sampled_from([0.5, 2.0, 40.0]))
    def begin(self, budget_s: float) -> tuple[Permit | None, int, int]:
        """Ask for a permit."""
        model, self.calls = self.model, self.calls + 1
        answer = self.breaker.allow(self.now, self.now + budget_s)
        if model.probe is not None and self.now >= model.probe_ends:
            model.probe = None
        if model.state == "open" and self.now >= model.until:
            assert isinstance(answer, Permit)
            assert answer.transition is not None
            self.transition(answer.transition.before, answer.transition.after, answer.transition.generation)
            model.transition_to("half_open")
        else:
            assert isinstance(answer, Denied) or answer.transition is None
        if model.state == "closed" or (model.state == "half_open" and model.probe is None):
            assert isinstance(answer, Permit)
            assert answer.probe == (model.state == "half_open")
            if answer.probe:
                model.probe, model.probe_ends = self.calls, self.now + budget_s + PROBE_WAIT_S
            return answer, model.era, self.calls
        assert isinstance(answer, Denied)
        assert answer.retry_after_s > 0
        if model.state == "open":
            assert answer.retry_after_s == model.until - self.now
        return None, -1, self.calls

    @rule(call=permits, result=st.sampled_from(CallResult))
    def end(self, call: tuple[Permit | None, int, int], result: CallResult) -> None:
        """Hand a permit back, perhaps late, perhaps again."""
        permit, era, number = call
        if permit is None:
            return
        model, before = self.model, self.model.state
        transition = self.breaker.record(permit, result, self.now)
        if era == model.era and model.state == "closed":
            model.results.append(result)
            if model.trips():
                model.open(self.now)
        elif era == model.era and model.probe == number:
            model.probe = None
            if result is CallResult.SUCCESS:
                model.failed_probes = 0
                model.transition_to("closed")
            elif result is CallResult.FAILURE:
                model.failed_probes += 1
                model.open(self.now)
        assert (transition is not None) == (before != model.state)
        if transition is not None:
            assert (transition.before, transition.after) == (before, model.state)
            self.transition(transition.before, transition.after, transition.generation)

    @rule(seconds=st.sampled_from([0.001, 1.0, 29.0, 30.0, 60.0, 299.0, 300.0, 10_000.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule()
    def reset(self) -> None:
        """Close by hand."""
        transition = self.breaker.reset()
        assert (transition is not None) == (self.model.state != "closed")
        if transition is not None:
            self.transition(transition.before, transition.after, transition.generation)
        self.model.failed_probes = 0
        self.model.transition_to("closed")

    @invariant()
    def agree(self) -> None:
        """Breaker and model are in one state, and the snapshot tells it."""
        snapshot = self.breaker.snapshot(self.now)
        over = self.model.state == "open" and self.now >= self.model.until
        assert snapshot.state == ("half_open" if over else self.model.state)
        assert (snapshot.state is CircuitState.CLOSED) == (snapshot.retry_in_s is None)
        if snapshot.state is CircuitState.OPEN:
            assert snapshot.retry_in_s == self.model.until - self.now


BreakerAgainstModel.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


class TestBreakerAgainstModel(BreakerAgainstModel.TestCase):
    """Any sequence of begins, ends, waits and resets leaves the breaker where the model is."""
