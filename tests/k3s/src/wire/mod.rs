//! HTTPS as servers and agents speak it: TLS settings, a client, a listener.

pub(crate) mod client;
pub(crate) mod listener;
pub(crate) mod tls;
