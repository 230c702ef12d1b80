"""What commands share: progress where there is no terminal."""

import threading

import pytest

from rlarcade import console


@pytest.mark.parametrize(("at_most", "eta"), [(False, "ETA 0:28"), (True, "ETA at most 0:28")])
def test_a_progress_line_says_how_far_and_how_long(monkeypatch, capsys, at_most, eta):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.ProgressLine(400, "match", unit="pairs", at_most=at_most) as line:
        for done in range(1, 11):
            now[0] += 1.1
            line.update(done * 11, lambda: "5 won")
    assert capsys.readouterr().out.splitlines() == [
        f"match: 110/400 pairs  10 pairs/s  {eta}  5 won"
    ]


@pytest.mark.parametrize(("error", "told"), [(OSError, False), (ValueError, True)])
def test_a_full_disk_in_another_thread_is_left_to_who_waits_for_it(monkeypatch, error, told):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda what: seen.append(what.exc_type))

    def command(argv):
        def work():
            raise error("no more")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return 7

    before = threading.excepthook
    assert console.run_command(command, []) == 7
    assert seen == ([error] if told else [])
    assert threading.excepthook is before
