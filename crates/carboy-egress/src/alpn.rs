//! Which HTTP version a connection speaks, and what is remembered about the origins' choices.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use carboy_core::host::Host;

/// The two protocols that the gateway understands (RFC 7301 identifiers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    H1,
    H2,
}

impl Alpn {
    pub(crate) fn wire(self) -> &'static [u8] {
        match self {
            Alpn::H1 => b"http/1.1",
            Alpn::H2 => b"h2",
        }
    }

    pub(crate) fn from_wire(id: &[u8]) -> Option<Alpn> {
        [Alpn::H1, Alpn::H2].into_iter().find(|alpn| alpn.wire() == id)
    }
}

/// What a client offered, reduced to what the gateway understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Offer {
    pub(crate) h1: bool,
    pub(crate) h2: bool,
}

impl Offer {
    pub(crate) fn of<'a>(ids: impl Iterator<Item = &'a [u8]>) -> Offer {
        ids.fold(Offer::default(), |offer, id| match Alpn::from_wire(id) {
            Some(Alpn::H1) => Offer { h1: true, ..offer },
            Some(Alpn::H2) => Offer { h2: true, ..offer },
            None => offer,
        })
    }

    /// The same offer for the other side, most wanted first.
    pub(crate) fn wire(self) -> Vec<Vec<u8>> {
        let h2 = self.h2.then(|| Alpn::H2.wire().to_vec());
        let h1 = self.h1.then(|| Alpn::H1.wire().to_vec());
        h2.into_iter().chain(h1).collect()
    }

    /// What is told to the client when nobody was asked upstream: the best that it offered.
    pub(crate) fn best(self) -> Option<Alpn> {
        if self.h2 {
            Some(Alpn::H2)
        } else if self.h1 {
            Some(Alpn::H1)
        } else {
            None
        }
    }
}

type Asked = (Host, u16, Offer);

/// Origins' choices by host, port and offer.
pub(crate) struct AlpnMemory {
    max: usize,
    age: Duration,
    known: Mutex<HashMap<Asked, (Option<Alpn>, Instant)>>,
}

impl AlpnMemory {
    pub(crate) fn new(max: usize, age: Duration) -> AlpnMemory {
        AlpnMemory { max, age, known: Mutex::default() }
    }

    /// `Some(choice)` when the origin was asked lately.
    pub(crate) fn recall(&self, host: &Host, port: u16, offer: Offer) -> Option<Option<Alpn>> {
        let known = self.known.lock().expect("no panic under this lock");
        let (choice, when) = known.get(&(host.clone(), port, offer))?;
        (when.elapsed() < self.age).then_some(*choice)
    }

    pub(crate) fn learn(&self, host: &Host, port: u16, offer: Offer, choice: Option<Alpn>) {
        let mut known = self.known.lock().expect("no panic under this lock");
        if known.len() >= self.max {
            known.retain(|_, (_, when)| when.elapsed() < self.age);
            if known.len() >= self.max {
                known.clear();
            }
        }
        known.insert((host.clone(), port, offer), (choice, Instant::now()));
    }

    pub(crate) fn forget(&self, host: &Host, port: u16) {
        self.known.lock().expect("no panic under this lock").retain(|(h, p, _), _| (h, *p) != (host, port));
    }
}
