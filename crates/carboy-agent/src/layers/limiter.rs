//! The rate limiter: at most N requests of a key in *any* window of a length, exactly (G46, G69, G80).
//!
//! ```text
//!  keys of one request ─▶ every window asked ─▶ all have room ─▶ all recorded
//!                                          └─▶ one has none ─▶ nothing recorded, Limited
//! ```
//!
//! It keeps the time of each admitted request, N of them for a key at most. A token bucket lets in up to 2N − 1 in one
//! window after a pause and is not this. Keys are few: one beyond the most is refused unless another has expired, so that
//! whoever brings a million names gets no fresh quota out of it. *Must never* forget a key whose window still runs, nor
//! believe a clock that runs backwards.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use carboy_core::chat::ChatLimits;

use crate::outcome::TurnError;

mod keys;

use keys::Keys;

/// The lengths of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Sixty seconds.
    Minute,
    /// Sixty minutes.
    Hour,
}

impl Window {
    /// Its length in milliseconds.
    pub fn ms(self) -> u64 {
        match self {
            Window::Minute => 60_000,
            Window::Hour => 3_600_000,
        }
    }

    /// What a refusal calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Window::Minute => "minute",
            Window::Hour => "hour",
        }
    }
}

/// The rules of a chat agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleId {
    /// Requests of one person in any hour (G69).
    UserPerHour,
    /// Requests of one address in any minute (G46).
    AddressPerMinute,
    /// Requests of one address in any hour, of people whom nobody knows.
    AddressPerHour,
    /// Requests of one session in any minute (G46).
    SessionPerMinute,
}

impl RuleId {
    const ALL: [RuleId; 4] =
        [RuleId::UserPerHour, RuleId::AddressPerMinute, RuleId::SessionPerMinute, RuleId::AddressPerHour];

    /// The length of its window.
    pub fn window(self) -> Window {
        match self {
            RuleId::UserPerHour | RuleId::AddressPerHour => Window::Hour,
            RuleId::AddressPerMinute | RuleId::SessionPerMinute => Window::Minute,
        }
    }

    /// The threshold that it is, by its name in an agent's file.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleId::UserPerHour => "requests_per_hour",
            RuleId::AddressPerMinute => "requests_per_ip_per_minute",
            RuleId::SessionPerMinute => "requests_per_session_per_minute",
            RuleId::AddressPerHour => "requests_per_ip_per_hour",
        }
    }

    fn index(self) -> usize {
        match self {
            RuleId::UserPerHour => 0,
            RuleId::AddressPerMinute => 1,
            RuleId::SessionPerMinute => 2,
            RuleId::AddressPerHour => 3,
        }
    }
}

/// The request was let in and is counted, at every key.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request that was not admitted must not go on"]
pub struct Admitted(());

/// The request was not let in, and is counted nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Rate limit exceeded. Max {max} requests per {window}.")]
pub struct Limited {
    /// Which rule refused; of several, the one that refuses longest.
    pub rule: RuleId,
    /// How many it lets in.
    pub max: u32,
    /// In which time: `hour`, `minute`.
    pub window: &'static str,
    /// After so many seconds the same request would be let in, if nothing else was until then.
    pub retry_after_s: u32,
    /// What was in the way.
    pub because: Because,
}

/// What was in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The key had its requests.
    Quota,
    /// More keys than are remembered are in their windows (`limiter_keys_max`), and this is a new one.
    Keys,
}

impl From<Limited> for TurnError {
    fn from(limited: Limited) -> TurnError {
        TurnError::RateLimited { max: limited.max, window: limited.window, retry_after_s: limited.retry_after_s }
    }
}

/// The limiter of one agent.
pub struct Limiter {
    maxima: [u32; RuleId::ALL.len()],
    keys_max: usize,
    /// Keys are kept as their hash under a key of this process: small whatever a client calls itself, and nobody can look
    /// for a name that shares another's quota.
    hasher: RandomState,
    inner: Mutex<Inner>,
}

struct Inner {
    time: Time,
    keys: [Keys; RuleId::ALL.len()],
}

/// Time that only goes forward: a clock that is set back stands still, and goes on from there.
struct Time {
    /// What the caller's clock said last.
    told_ms: Option<u64>,
    /// Sum of its steps forward.
    now_ms: u64,
}

impl Time {
    fn advance(&mut self, told_ms: u64) -> u64 {
        self.now_ms = self.now_ms.saturating_add(told_ms.saturating_sub(self.told_ms.unwrap_or(told_ms)));
        self.told_ms = Some(told_ms);
        self.now_ms
    }
}

impl Limiter {
    /// With the numbers of `limits`.
    pub fn new(limits: &ChatLimits) -> Limiter {
        let max = |rule| match rule {
            RuleId::UserPerHour => limits.requests_per_hour,
            RuleId::AddressPerMinute => limits.requests_per_ip_per_minute,
            RuleId::AddressPerHour => limits.requests_per_ip_per_hour,
            RuleId::SessionPerMinute => limits.requests_per_session_per_minute,
        };
        Limiter {
            maxima: RuleId::ALL.map(max),
            keys_max: limits.limiter_keys_max as usize,
            hasher: RandomState::new(),
            inner: Mutex::new(Inner {
                time: Time { told_ms: None, now_ms: 0 },
                keys: RuleId::ALL.map(|rule| Keys::new(rule.window().ms())),
            }),
        }
    }

    /// May a request with these keys come in now? Asked of all of them together: it is counted at every one, or at none.
    ///
    /// `now_ms` is best taken from [`Steady`]: a wall clock that is set forward looks like time that passed.
    pub fn admit(&self, keys: &[(RuleId, &str)], now_ms: u64) -> Result<Admitted, Limited> {
        let mut asked: Vec<(RuleId, u64)> = Vec::with_capacity(keys.len());
        for (rule, key) in keys {
            let hashed = (*rule, self.hasher.hash_one((rule, key)));
            if !asked.contains(&hashed) {
                asked.push(hashed);
            }
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.time.advance(now_ms);
        inner.keys.iter_mut().for_each(|keys| keys.forget_expired(now));
        let over = asked.iter().filter_map(|(rule, key)| self.over(&inner, *rule, *key, now));
        // Told is what refuses longest: whoever waits for it finds nothing else in the way.
        if let Some((wait_ms, rule)) = over.max_by_key(|(wait_ms, _)| *wait_ms) {
            return Err(self.limited(rule, wait_ms, Because::Quota));
        }
        let new: Vec<RuleId> =
            asked.iter().filter(|(rule, key)| !inner.keys[rule.index()].has(*key)).map(|(rule, _)| *rule).collect();
        let remembered: usize = inner.keys.iter().map(Keys::len).sum();
        let missing = (remembered + new.len()).saturating_sub(self.keys_max);
        if missing > 0 {
            let wait_ms = self.wait_for_keys(&inner, &asked, missing, now);
            let rule = new.first().copied().unwrap_or(RuleId::UserPerHour);
            return Err(self.limited(rule, wait_ms, Because::Keys));
        }
        for (rule, key) in asked {
            inner.keys[rule.index()].record(key, now);
        }
        Ok(Admitted(()))
    }

    /// How long this key is over its number, if it is.
    fn over(&self, inner: &Inner, rule: RuleId, key: u64, now: u64) -> Option<(u64, RuleId)> {
        let wait_ms = match self.maxima[rule.index()] {
            0 => rule.window().ms(),
            max => inner.keys[rule.index()].wait_ms(key, max, now)?,
        };
        Some((wait_ms, rule))
    }

    /// When so many keys that this request does not use have expired.
    fn wait_for_keys(&self, inner: &Inner, asked: &[(RuleId, u64)], missing: usize, now: u64) -> u64 {
        let mut ends: Vec<u64> = RuleId::ALL
            .iter()
            .flat_map(|rule| {
                let used = asked.iter().filter(|(other, _)| other == rule).map(|(_, key)| *key).collect::<Vec<_>>();
                inner.keys[rule.index()].ends(missing, used)
            })
            .collect();
        ends.sort_unstable();
        // With a maximum below the keys of one request there is nothing to wait for: an hour is as good as any answer.
        ends.get(missing - 1).map_or(Window::Hour.ms(), |end| end.saturating_sub(now))
    }

    fn limited(&self, rule: RuleId, wait_ms: u64, because: Because) -> Limited {
        Limited {
            rule,
            max: self.maxima[rule.index()],
            window: rule.window().as_str(),
            retry_after_s: u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX),
            because,
        }
    }

    /// Keys that are remembered now, over all rules: never more than `limiter_keys_max`.
    pub fn keys(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).keys.iter().map(Keys::len).sum()
    }
}

/// Milliseconds of a clock that nobody sets, for [`Limiter::admit`].
pub struct Steady {
    started: Instant,
}

impl Steady {
    /// Begins at zero.
    pub fn start() -> Steady {
        Steady { started: Instant::now() }
    }

    /// Milliseconds since it was started.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What an address is called: IPv4 as a whole, IPv6 by its first 64 bits, since whoever has one address of such a network
/// has all of them.
pub fn address_key(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests;
