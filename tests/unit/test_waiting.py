"""The line in front of the stages, and the room in one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ofa_serving.waiting import PriorityClass, Room, WaitingLine
from serving_process import wait_until

INTERACTIVE, BATCH = PriorityClass.INTERACTIVE, PriorityClass.BATCH


@pytest.fixture
def line():
    return WaitingLine(threads=16)


def test_interactive_requests_go_before_batch_ones_and_each_kind_in_order(line):
    for item, priority in (("b1", BATCH), ("i1", INTERACTIVE), ("b2", BATCH), ("i2", INTERACTIVE)):
        line.put(item, priority)
    assert [line.take() for _ in range(4)] == ["i1", "i2", "b1", "b2"]


def test_one_who_takes_waits_for_what_comes(line):
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(line.take)
        assert not taken.done()
        line.put("late", BATCH)
        assert taken.result(60) == "late"


def test_what_is_withdrawn_is_not_taken(line):
    for item in ("one", "two", "three"):
        line.put(item, INTERACTIVE)
    assert line.withdraw("two")
    assert [line.take(), line.take()] == ["one", "three"]


def test_what_was_taken_can_not_be_withdrawn(line):
    line.put("one", BATCH)
    line.take()
    assert not line.withdraw("one")


def test_batch_requests_leave_half_of_the_threads_to_interactive_ones():
    line = WaitingLine(threads=4)
    for item in ("b1", "b2", "b3"):
        line.put(item, BATCH)
    assert [line.take(), line.take()] == ["b1", "b2"]
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(line.take), pool.submit(line.take)]
        time.sleep(0.05)
        assert not any(future.done() for future in taken)
        line.put("i", INTERACTIVE)
        wait_until(lambda: any(future.done() for future in taken))
        line.done(INTERACTIVE)
        time.sleep(0.05)
        assert sum(future.done() for future in taken) == 1
        line.done(BATCH)
        assert sorted(future.result(60) for future in taken) == ["b3", "i"]


def test_a_single_thread_takes_batch_requests_too():
    line = WaitingLine(threads=1)
    line.put("b", BATCH)
    assert line.take() == "b"


def test_closing_gives_out_what_still_waits_and_then_lets_everyone_go():
    line = WaitingLine(threads=4)
    for number in range(6):
        line.put(number, BATCH)
    line.close()

    def work():
        taken = []
        while (item := line.take()) is not None:
            taken.append(item)
            line.done(BATCH)
        return taken

    with ThreadPoolExecutor(4) as pool:
        every = [pool.submit(work) for _ in range(4)]
        assert sorted(item for future in every for item in future.result(60)) == list(range(6))


def test_a_thread_that_waits_is_let_go_when_the_last_batch_request_is_withdrawn():
    line = WaitingLine(threads=2)
    for item in ("b1", "b2"):
        line.put(item, BATCH)
    assert line.take() == "b1"
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(line.take)
        line.close()
        time.sleep(0.05)
        assert line.withdraw("b2")
        assert taken.result(60) is None


class Visitors:
    """Threads that enter a room and stay until they are let go."""

    def __init__(self, room):
        self.room, self.inside, self.pool = room, [], ThreadPoolExecutor(8)
        self._leave = {}

    def enter(self, name, priority=INTERACTIVE, images=1, check=lambda: None):
        self._leave[name] = threading.Event()

        def visit():
            with self.room.taken(images, priority, check):
                self.inside.append(name)
                self._leave[name].wait(60)

        waiting = self.waiting
        future = self.pool.submit(visit)
        wait_until(lambda: name in self.inside or self.waiting == waiting + 1)
        return future

    @property
    def waiting(self):
        return sum(map(len, self.room._lines.values()))

    def leave(self, *names):
        for name in names:
            self._leave[name].set()


@pytest.fixture
def visitors():
    visitors = Visitors(Room(4))
    yield visitors
    visitors.leave(*visitors._leave)
    visitors.pool.shutdown()


def test_no_more_images_are_in_a_room_than_it_has(visitors):
    for name in "abc":
        visitors.enter(name, images=2)
    assert visitors.inside == ["a", "b"]
    visitors.leave("b")
    wait_until(lambda: visitors.inside == ["a", "b", "c"])


def test_interactive_requests_enter_before_batch_ones_and_nobody_passes_one_that_needs_more(visitors):
    visitors.enter("first", images=3)
    for name, priority, images in (("b1", BATCH, 4), ("b2", BATCH, 1), ("i1", INTERACTIVE, 2), ("i2", INTERACTIVE, 1)):
        visitors.enter(name, priority, images)
    assert visitors.inside == ["first"]
    visitors.leave("first")
    wait_until(lambda: sorted(visitors.inside[1:]) == ["i1", "i2"])  # which a ticket is not yet
    assert visitors.waiting == 2
    visitors.leave("i1", "i2")
    wait_until(lambda: visitors.inside[3:] == ["b1"])
    visitors.leave("b1")
    wait_until(lambda: visitors.inside[4:] == ["b2"])


def test_a_small_batch_request_does_not_pass_a_large_interactive_one(visitors):
    visitors.enter("first", images=3)
    visitors.enter("large", images=2)
    visitors.enter("small", BATCH)
    assert (visitors.inside, visitors.waiting) == (["first"], 2)


def test_who_gives_up_does_not_enter_and_holds_nobody_up(visitors):
    gone = threading.Event()

    def check():
        if gone.is_set():
            raise TimeoutError

    visitors.enter("first", images=3)
    large = visitors.enter("large", images=2, check=check)
    visitors.enter("small")
    gone.set()
    with pytest.raises(TimeoutError):
        large.result(60)
    wait_until(lambda: visitors.inside == ["first", "small"])


def test_who_gave_up_before_there_was_room_does_not_enter():
    room, looks = Room(1), []

    def check():
        looks.append(None)
        raise TimeoutError

    with pytest.raises(TimeoutError), room.taken(1, BATCH, check):
        pass
    assert len(looks) == 1
    assert room._free == 1


def test_one_with_more_images_than_a_room_has_gets_all_of_it(visitors):
    visitors.enter("large", images=9)
    assert visitors.inside == ["large"]
    visitors.enter("small")
    assert visitors.waiting == 1


def test_room_is_free_again_whatever_happens_in_it():
    room = Room(1)
    with pytest.raises(RuntimeError), room.taken(1, BATCH, lambda: None):
        raise RuntimeError
    assert room._free == 1
