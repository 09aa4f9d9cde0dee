"""Random phases."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SHAPES = ["linear", "cosine", "1-sqrt", "exponential", "rex"]
powers = st.floats(0.1, 4.0)
timescales = st.integers(1, 50)

shapes = st.one_of(
    st.builds(lambda shape: {"shape": shape}, st.sampled_from(SHAPES)),
    st.builds(lambda shape, p: {"shape": shape, "power": p}, st.sampled_from(["polynomial", "1-power"]), powers),
)
"""The keys of a shape that comes to its value."""

tails = st.one_of(
    st.builds(lambda t: {"shape": "inverse_sqrt", "timescale": t}, timescales),
    st.builds(lambda t, p: {"shape": "power_law", "timescale": t, "power": p}, timescales, powers),
    st.builds(lambda gamma: {"shape": "exponential", "gamma": gamma}, st.floats(0.5, 1.0)),
)
"""The keys of a shape that does not."""

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
        phase = {"steps": draw(st.integers(1, 12)), **draw(shapes)}
        if draw(st.booleans()):
            phase["lr"] = one_or_list(lr_values)
        if draw(st.booleans()):
            phase["momentum"] = one_or_list(momentum_values)
        phases.append(phase)
    return {"phases": phases, "start_lr": one_or_list(lr_values), "start_momentum": one_or_list(momentum_values)}


@st.composite
def repeated(draw: Any) -> dict[str, Any]:
    """Draw the parameters of a PhasedLR with repeats, tails and ``"rest"``."""

    def phase() -> dict[str, Any]:
        drawn = {"steps": draw(st.integers(1, 9)), **draw(shapes | tails)}
        return {**drawn, "lr": draw(st.floats(0.0, 2.0))} if draw(st.booleans()) else drawn

    items: list[dict[str, Any]] = [phase() for _ in range(draw(st.integers(0, 2)))]
    group = {
        "repeat": draw(st.integers(1, 4)),
        "phases": [phase() for _ in range(draw(st.integers(1, 3)))],
        "length_factor": draw(st.sampled_from([1, 2, 3])),
        "peak_factor": draw(st.sampled_from([1.0, 0.5])),
    }
    items += [group, *(phase() for _ in range(draw(st.integers(0, 2))))]
    params: dict[str, Any] = {"phases": items, "start_lr": draw(st.floats(0.0, 2.0))}
    filling = draw(st.sampled_from(["nothing", "repeat", "steps"]))
    if filling != "nothing":
        params["total_num_steps"] = sum(one["steps"] for one in written_out(params)) + draw(st.integers(0, 20))
        which = (
            group
            if filling == "repeat"
            else draw(st.sampled_from([one for one in items if one is not group] or [group]))
        )
        if which is group:
            group["repeat"] = "rest"
        else:
            which["steps"] = "rest"
    return params


def written_out(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the phases without groups and words; a group that fills the run is cut off where it has to be."""
    flat: list[dict[str, Any]] = []
    left = params.get("total_num_steps", 0) - _without_rest(params)
    for item in params["phases"]:
        if "phases" in item:
            flat += _group(item, left)
        else:
            flat.append({**item, "steps": left} if item["steps"] == "rest" else dict(item))
    return flat


def _without_rest(params: dict[str, Any]) -> int:
    steps = 0
    for item in params["phases"]:
        if item.get("repeat") != "rest":
            inner = item.get("phases", [item])
            steps += sum(n * one["steps"] for n in _lengths(item) for one in inner if one["steps"] != "rest")
    return steps


def _group(group: dict[str, Any], room: int) -> list[dict[str, Any]]:
    found = []
    peak = max((one["lr"] for one in group["phases"] if "lr" in one), default=None)
    for number, length in enumerate(_lengths(group)):
        for one in group["phases"]:
            made = {**one, "steps": one["steps"] * length}
            if one.get("lr") == peak and peak is not None:
                made["lr"] = peak * group["peak_factor"] ** number
            if group["repeat"] == "rest":
                made["cut"] = max(0, min(room, made["steps"]))
                room -= made["cut"]
            if made.get("cut") != 0:
                found.append(made)
    return found


def _lengths(group: dict[str, Any]) -> list[int]:
    times = 60 if group.get("repeat") == "rest" else group.get("repeat", 1)
    return [group.get("length_factor", 1) ** number for number in range(times)]
