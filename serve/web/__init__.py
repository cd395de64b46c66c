"""HTTP itself: connections, TLS, who may come in, and bodies under a bound."""
