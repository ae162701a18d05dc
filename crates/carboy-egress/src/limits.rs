//! The named maxima of a gateway: every buffer, table and wait of this crate ends at one of these.

use std::time::Duration;

use crate::zones::ZoneLimits;

/// What one bottle's gateway holds and waits for at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Connections from the bottle at once; one more is closed at once.
    pub connections_max: usize,
    /// Connections of a proxy at once that have not shown yet that they may use it: strangers take none of the others.
    pub strangers_max: usize,
    /// Requests in work at once, on all connections together: each holds a head, a gate's bytes and more.
    pub requests_max: usize,
    /// Concurrent streams of one HTTP/2 connection.
    pub streams_max: u32,
    /// Bytes of one HTTP/2 stream that are read ahead.
    pub stream_window_bytes: u32,
    /// Bytes of one HTTP/2 connection that are. The h2 library ends a connection on which frames of under 256 bytes pile up
    /// beyond half of this, each counted by what it falls short: a model's stream in a burst is made of such frames.
    pub connection_window_bytes: u32,
    /// Bytes of one frame of HTTP/2 that is read.
    pub frame_bytes_max: u32,
    /// Bytes of one stream of HTTP/2 that wait to be sent.
    pub send_buffer_bytes: usize,
    /// Streams that a client of HTTP/2 has reset before they were looked at; one more ends its connection (CVE-2023-44487).
    pub reset_streams_max: usize,
    /// Streams of one connection of HTTP/2 that had to be reset for what its client sent; one more ends it.
    pub refused_streams_max: usize,
    /// Bytes that one connection of HTTP/1 buffers, in either direction.
    pub connection_buffer_bytes: usize,
    /// Bytes of one request or response head.
    pub head_bytes_max: usize,
    /// Header fields of one request or response.
    pub headers_max: usize,
    /// Bytes of a body that has to be read whole, as sent and again decoded.
    pub whole_body_bytes_max: u64,
    /// Bytes of all such bodies together.
    pub whole_bytes_max: u32,
    /// Until such a body is complete.
    pub whole_body_time: Duration,
    /// Bytes of a body that are scanned before any head goes on, in either direction.
    pub gate_bytes_max: usize,
    /// Names that get an address of the pool.
    pub names_max: usize,
    /// Of those, names that only a wildcard route allows: each is chosen by the bottle (B30).
    pub wildcard_names_max: usize,
    /// What names below one wildcard may say in a run (B30).
    pub zones: ZoneLimits,
    /// Bytes of one DNS query over TCP.
    pub dns_query_bytes_max: usize,
    /// DNS queries in work at once.
    pub dns_pending_max: usize,
    /// Distinct refusals whose repeats are counted apart; above it they share one count.
    pub repeats_max: usize,
    /// Until a repeated refusal is written again, with its count.
    pub repeats_window: Duration,
    /// Leaf certificates (with their TLS configurations) that are kept.
    pub leaves_max: usize,
    /// Hosts whose ALPN choice is remembered.
    pub alpn_max: usize,
    /// How long an ALPN choice is remembered.
    pub alpn_age: Duration,
    /// Until the first byte of a connection.
    pub first_byte: Duration,
    /// For a whole TLS handshake, either side.
    pub handshake: Duration,
    /// For resolving and connecting, all addresses together.
    pub dial: Duration,
    /// Before the next address of a host is tried beside the first (RFC 8305).
    pub next_address: Duration,
    /// Until a request's head is complete, idle time of a kept connection included.
    pub idle: Duration,
    /// From a sent request to the head of its answer; reasoning models take minutes.
    pub answer_head: Duration,
    /// Between two pieces of a body, in either direction.
    pub body_idle: Duration,
    /// How long a client may leave an answer unread that is there; its connection is closed then, and what the answer cost is
    /// settled. Programs that are paused do not read.
    pub unread: Duration,
    /// A body that pauses this long before [`gate_bytes_max`](Self::gate_bytes_max) is passed on as far as it was
    /// scanned: both ends of a dialogue may be waiting for each other. After it, what its scanner holds back goes at such a
    /// pause, as far as it is no secret's beginning.
    pub gate_pause: Duration,
    /// The same for a body that trickles in, from its beginning.
    pub gate_time: Duration,
    /// How long a text answer is held for judgement; after that a hit ends it.
    pub hold_time: Duration,
    /// An answer that pauses this long gets the few bytes that its scanner held back.
    pub flush_pause: Duration,
    /// How long open exchanges may go on after a cut.
    pub cut_grace: Duration,
    /// In the long run one request is refused this often; beyond the burst, refusals wait their turn.
    pub refusal_every: Duration,
    /// Refused requests that are answered without a wait.
    pub refusal_burst: u32,
    /// For a provider's count of a request's tokens, all of it.
    pub count_wait: Duration,
    /// Bytes of the answer to that.
    pub count_bytes_max: usize,
    /// How long an answer whose client went away is read on for its end, and what it cost.
    pub drain: Duration,
    /// Bytes that are read of it.
    pub drain_bytes_max: usize,
    /// Tokens a second that the fastest model writes: so many may have been thought unseen when a stream breaks off.
    pub unseen_tokens_per_s: u64,
    /// Calls of a tool that a provider runs itself, where the request does not say how many.
    pub tool_calls_max: u32,
    /// Final denials within [`storm_window`](Self::storm_window) before they are slowed down, and again before it is told.
    pub storm_denials_max: usize,
    /// The time in which they are counted.
    pub storm_window: Duration,
    /// How often they are answered once they are slowed down.
    pub storm_every: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        GatewayLimits {
            connections_max: 1024,
            strangers_max: 128,
            requests_max: 512,
            streams_max: 128,
            stream_window_bytes: 1024 * 1024,
            connection_window_bytes: 16 * 1024 * 1024,
            frame_bytes_max: 16 * 1024,
            send_buffer_bytes: 400 * 1024,
            reset_streams_max: 20,
            refused_streams_max: 1024,
            connection_buffer_bytes: 408 * 1024,
            head_bytes_max: 64 * 1024,
            headers_max: 128,
            whole_body_bytes_max: 32 * 1024 * 1024,
            whole_bytes_max: 256 * 1024 * 1024,
            whole_body_time: Duration::from_secs(600),
            gate_bytes_max: 64 * 1024,
            names_max: 4096,
            wildcard_names_max: 1024,
            zones: ZoneLimits::default(),
            dns_query_bytes_max: 4096,
            dns_pending_max: 256,
            repeats_max: 256,
            repeats_window: Duration::from_secs(60),
            leaves_max: 512,
            alpn_max: 1024,
            alpn_age: Duration::from_secs(600),
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(15),
            dial: Duration::from_secs(15),
            next_address: Duration::from_millis(250),
            idle: Duration::from_secs(300),
            answer_head: Duration::from_secs(900),
            body_idle: Duration::from_secs(300),
            unread: Duration::from_secs(900),
            gate_pause: Duration::from_millis(50),
            gate_time: Duration::from_millis(500),
            hold_time: Duration::from_secs(2),
            flush_pause: Duration::from_millis(20),
            cut_grace: Duration::from_secs(2),
            refusal_every: Duration::from_millis(10),
            refusal_burst: 500,
            count_wait: Duration::from_secs(10),
            count_bytes_max: 64 * 1024,
            drain: Duration::from_millis(250),
            drain_bytes_max: 4 * 1024 * 1024,
            unseen_tokens_per_s: 2_000,
            tool_calls_max: 8,
            storm_denials_max: 30,
            storm_window: Duration::from_secs(10),
            storm_every: Duration::from_millis(200),
        }
    }
}
