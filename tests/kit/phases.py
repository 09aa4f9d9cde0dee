"""Random phases."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SHAPES = ["linear", "cosine", "1-sqrt", "exponential"]

# Products of an lr and a ratio must not be subnormal: these have fewer digits than the tests compare.
ratios = st.just(0.0) | st.floats(1e-100, 2.0)
lr_values = st.just(0.0) | st.floats(1e-100, 10.0) | st.builds(lambda ratio: {"ratio": ratio}, ratios)
momentum_values = st.just(0.0) | st.floats(1e-100, 0.99)


@st.composite
def phased(draw: Any) -> dict[str, Any]:
    """Draw the parameters of a PhasedLR for two param groups."""

    def one_or_list(values: Any) -> Any:
        numbers = st.just(0.0) | st.floats(1e-100, 0.99)
        return draw(values | st.lists(numbers, min_size=2, max_size=2))

    phases = []
    for _ in range(draw(st.integers(1, 5))):
        phase = {"steps": draw(st.integers(1, 12)), "shape": draw(st.sampled_from(SHAPES))}
        if draw(st.booleans()):
            phase["lr"] = one_or_list(lr_values)
        if draw(st.booleans()):
            phase["momentum"] = one_or_list(momentum_values)
        phases.append(phase)
    return {"phases": phases, "start_lr": one_or_list(lr_values), "start_momentum": one_or_list(momentum_values)}
