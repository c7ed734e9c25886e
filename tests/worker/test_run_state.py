from nextchar.worker.schedule import RunState, Schedule


def test_a_new_run_has_done_nothing() -> None:
    meta = RunState(Schedule(end=9)).to_meta()
    counts = (
        "step",
        "epoch",
        "k",
        "elapsed_s",
        "retries",
        "best_step",
        "evaluations",
        "evaluations_since_best",
        "evaluation_s",
    )
    assert [meta[name] for name in counts] == [0] * len(counts)
    assert meta["rate_scale"] == 1


def test_windows_are_counted_in_each_epoch_and_steps_over_all() -> None:
    state = RunState(Schedule(end=4))
    seen = []
    while not state.is_finished:
        seen.append((state.step, state.epoch, state.window_index))
        state.advance(windows_per_epoch=3)
    assert seen == [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 1, 0)]


def test_evaluations_are_due_at_equal_distances_from_the_first_step_to_the_last() -> None:
    state = RunState(Schedule(end=10), evaluations_planned=5)
    due_at = []
    for state.step in range(11):
        if state.is_evaluation_due:
            due_at.append(state.step)
            state.evaluations += 1
    assert due_at == [0, 2, 4, 6, 8, 10]


def test_a_stored_state_is_read_as_it_was() -> None:
    state = RunState(Schedule(end=9, step=2, progress=0.5), step=3, window_index=2, curve=[{"step": 1}])
    meta = state.to_meta()
    assert meta["k"] == 2  # its name in checkpoints
    assert RunState.from_meta(meta) == state


def test_evaluations_after_a_rollback_are_not_added_to_what_is_stored() -> None:
    meta = RunState(Schedule(end=9), curve=[{"step": 1}]).to_meta()
    RunState.from_meta(meta).curve.append({"step": 2})
    assert meta["curve"] == [{"step": 1}]
