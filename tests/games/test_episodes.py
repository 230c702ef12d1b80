import numpy as np

from rlarcade.games import Episode, EpisodeTracker, LaneStep, TrainingLanes, get_protocol

GAMES_OF = "Atari"


def lane_step(reward, *, terminated=(), truncated=(), life_lost=(), reset=()) -> LaneStep:
    """A step of len(reward) lanes; the flags name the lanes that they are set for."""
    count = len(reward)

    def flags(lanes):
        return np.isin(np.arange(count), lanes)

    return LaneStep(
        observation=np.zeros((count, 4, 84, 84), dtype=np.uint8),
        reward=np.array(reward, dtype=np.float32),
        terminated=flags(terminated),
        truncated=flags(truncated),
        life_lost=flags(life_lost),
        reset=flags(reset),
    )


def episode(lane: int, score: float, steps: int, ended: str) -> Episode:
    return Episode(lane=lane, score=score, steps=steps, ended=ended)


def test_a_game_is_scored_from_its_first_step_to_its_end():
    tracker = EpisodeTracker(2)

    assert tracker.observe(lane_step([30, -1])) == ()
    assert tracker.observe(lane_step([0, 0])) == ()
    assert tracker.observe(lane_step([200, -1], terminated=[0])) == (
        episode(0, 230.0, 3, "terminated"),
    )


def test_a_reset_row_counts_neither_as_a_step_nor_as_score():
    tracker = EpisodeTracker(1)
    tracker.observe(lane_step([5], truncated=[0]))

    assert tracker.observe(lane_step([999], reset=[0])) == ()
    assert tracker.observe(lane_step([7])) == ()
    assert tracker.observe(lane_step([8], truncated=[0])) == (episode(0, 15.0, 2, "truncated"),)


def test_a_lost_life_ends_nothing():
    tracker = EpisodeTracker(1)

    assert tracker.observe(lane_step([10], life_lost=[0])) == ()
    assert tracker.observe(lane_step([20], life_lost=[0], terminated=[0])) == (
        episode(0, 30.0, 2, "terminated"),
    )


def test_lanes_are_scored_apart_and_several_may_end_at_once():
    tracker = EpisodeTracker(3)
    tracker.observe(lane_step([1, 10, 100]))
    tracker.observe(lane_step([2, 20, 200], truncated=[1]))

    finished = tracker.observe(lane_step([4, 40, 400], reset=[1], terminated=[0], truncated=[2]))

    assert finished == (episode(0, 7.0, 3, "terminated"), episode(2, 700.0, 3, "truncated"))


def test_a_game_that_is_over_and_cut_at_once_counts_as_over():
    assert EpisodeTracker(1).observe(lane_step([1], terminated=[0], truncated=[0])) == (
        episode(0, 1.0, 1, "terminated"),
    )


def test_scores_beyond_the_precision_of_float32_stay_exact():
    tracker = EpisodeTracker(1)
    tracker.observe(lane_step([2**24]))
    for _ in range(3):
        tracker.observe(lane_step([1]))

    (finished,) = tracker.observe(lane_step([0], terminated=[0]))

    assert finished.score == 2**24 + 3


def test_a_restored_tracker_goes_on_with_the_games_in_flight():
    tracker, restored = EpisodeTracker(2), EpisodeTracker(2)
    tracker.observe(lane_step([1, 10]))
    state = tracker.state()
    restored.restore(state)
    last = lane_step([2, 20], terminated=[0, 1])

    expected = (episode(0, 3.0, 2, "terminated"), episode(1, 30.0, 2, "terminated"))
    assert tracker.observe(last) == expected
    assert restored.observe(last) == expected


def test_a_saved_state_does_not_change_with_the_tracker_or_its_heirs():
    tracker, restored = EpisodeTracker(1), EpisodeTracker(1)
    tracker.observe(lane_step([4]))
    state = tracker.state()
    tracker.observe(lane_step([4]))
    restored.restore(state)
    restored.observe(lane_step([4]))

    assert {name: values.tolist() for name, values in state.items()} == {"score": [4], "steps": [1]}


def test_real_games_are_scored_by_all_their_raw_points():
    played = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 802})
    lanes = TrainingLanes("space_invaders", num_envs=2, protocol=played, seed=2)
    lanes.start()
    tracker, rng = EpisodeTracker(2), np.random.default_rng(0)
    points, lengths, finished = [[[]], [[]]], [[0], [0]], []
    for _ in range(420):
        lanes.send(rng.integers(0, lanes.num_actions, 2))
        step = lanes.recv()
        finished += tracker.observe(step)
        for lane in range(2):
            if step.reset[lane]:
                points[lane].append([])
                lengths[lane].append(0)
            else:
                points[lane][-1].append(float(step.reward[lane]))
                lengths[lane][-1] += 1

    for lane in range(2):
        games = [one for one in finished if one.lane == lane]
        assert len(games) >= 2
        assert [one.score for one in games] == [sum(game) for game in points[lane]][: len(games)]
        assert [one.steps for one in games] == lengths[lane][: len(games)]
    assert max(one.score for one in finished) > 4  # an invader is worth 5 or more
