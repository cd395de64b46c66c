"""Records out of many threads into one socket."""

import socket
import threading

from serve.fronts.wire import SEND_BUFFER


class Outbox:
    """Sends what is posted; whoever finds another thread sending leaves his records to that one."""

    def __init__(self, connection: socket.socket) -> None:
        # Room for what all slots may have to say: an engine that waited for one front would keep out the others.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._connection = connection
        self._lock = threading.Lock()
        self._records = bytearray()
        self._sending = False

    def post(self, records: bytes) -> None:
        """Sends records, with whatever else has been posted meanwhile. If the other end is gone, nothing happens."""
        with self._lock:
            self._records += records
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                data = bytes(self._records)
                self._records.clear()
                self._sending = bool(data)
            if not data:
                return
            try:
                self._connection.sendall(data)
            except OSError:  # whoever reads from it sees that too, and does what is to be done
                continue
