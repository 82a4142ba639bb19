"""Bodies as they come: whole, in parts, too large, too slow, or not at all."""

import asyncio
from contextlib import suppress

import pytest

from project.bodies import SMALL, Bodies, Gone, Refused

MOST = 4 * SMALL


def part(body, *, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


class Client:
    """Sends some messages, then nothing more; `asked` counts what was asked of it."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.asked = 0

    async def receive(self):
        self.asked += 1
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


def read(client, bodies=None, headers=()):
    async def whole():
        async with (bodies or Bodies(MOST, 30, room=MOST)).read(headers, client.receive) as body:
            return body

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([part(b"", more=False)], b""),
        ([{"type": "http.request"}], b""),
        ([part(b"whole", more=False)], b"whole"),
        ([part(b"in "), part(b"parts"), part(b"", more=False)], b"in parts"),
        ([part(b"x" * MOST, more=False)], b"x" * MOST),
    ],
)
def test_body_is_what_came(messages, body):
    assert read(Client(*messages)) == body


def test_stated_length_that_is_too_large_is_refused_unread():
    client = Client(part(b"x"))

    with pytest.raises(Refused) as refused:
        read(client, headers=[(b"host", b"x"), (b"content-length", str(MOST + 1).encode())])

    assert (refused.value.status, client.asked) == (413, 0)


def test_chunks_are_read_no_further_than_what_is_too_large():
    client = Client(*[part(b"x" * SMALL)] * 100)

    with pytest.raises(Refused) as refused:
        read(client)

    assert (refused.value.status, client.asked) == (413, 5)


@pytest.mark.parametrize("messages", [[], [part(b"the beginning")]])
def test_body_that_does_not_end_in_time_is_refused(messages):
    with pytest.raises(Refused) as refused:
        read(Client(*messages), Bodies(MOST, 0.05, room=MOST))

    assert refused.value.status == 408


def test_body_that_trickles_is_refused_however_often_something_comes():
    class Trickle:
        async def receive(self):
            await asyncio.sleep(0.001)
            return part(b"x")

    with pytest.raises(Refused) as refused:
        read(Trickle(), Bodies(MOST, 0.05, room=MOST))

    assert refused.value.status == 408


def test_client_that_leaves_is_gone():
    with pytest.raises(Gone):
        read(Client(part(b"the beginning"), {"type": "http.disconnect"}))


def test_large_bodies_share_the_room_until_they_are_done_with_and_small_ones_need_none():
    async def size(bodies, count):
        async with bodies.read((), Client(part(b"x" * count, more=False)).receive) as body:
            return len(body)

    async def play():
        bodies = Bodies(MOST, 30, room=3 * SMALL)
        async with bodies.read((), Client(part(b"x" * 2 * SMALL, more=False)).receive):
            with pytest.raises(Refused) as refused:
                await size(bodies, 2 * SMALL)
            small = await size(bodies, SMALL)
        return refused.value.status, small, await size(bodies, 2 * SMALL), bodies.room

    assert asyncio.run(play()) == (503, SMALL, 2 * SMALL, 3 * SMALL)


def test_room_of_a_body_that_is_still_coming_is_taken():
    async def play():
        bodies = Bodies(MOST, 30, room=3 * SMALL)
        slow = asyncio.create_task(bodies.read((), Client(part(b"x" * 2 * SMALL)).receive).__aenter__())
        await asyncio.sleep(0)
        room = bodies.room
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return room, bodies.room

    assert asyncio.run(play()) == (SMALL, 3 * SMALL)


@pytest.mark.parametrize("ending", [part(b"x" * MOST), {"type": "http.disconnect"}, part(b"", more=False)])
def test_room_is_given_back_however_a_body_ends(ending):
    bodies = Bodies(MOST, 30, room=MOST)

    with suppress(Refused, Gone):
        read(Client(part(b"x" * 2 * SMALL), ending), bodies)

    assert bodies.room == MOST
