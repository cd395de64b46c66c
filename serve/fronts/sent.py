"""Tickets that a front has sent to the engine's process, and how they are finished."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from serve.fronts.wire import gone
from serve.ticket import Ticket

logger = logging.getLogger(__name__)

Deliver = Callable[[Callable[[], None]], object]


class Sent(NamedTuple):
    """A ticket on its way: which model of the table it is for, and where it is finished."""

    model: int
    ticket: Ticket
    deliver: Deliver


def deliver_all(finished: Sequence[Sent]) -> None:
    """Finishes tickets, with one wake-up for each place where that is done."""
    places: dict[Deliver, list[Ticket]] = {}
    for sent in finished:
        places.setdefault(sent.deliver, []).append(sent.ticket)
    for deliver, tickets in places.items():
        try:
            deliver(partial(_tell, tickets))
        except RuntimeError:  # the event loop is closed: nobody is left to be told
            logger.debug("%d tickets were finished too late", len(tickets))


def _tell(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.pixels = None
        ticket.on_done(ticket)


def refuse(sent: Sequence[Sent]) -> None:
    """Finishes tickets that the engine's process has left behind."""
    for one in sent:
        one.ticket.on_abandoned = None
        one.ticket.error = gone()
    deliver_all(sent)
