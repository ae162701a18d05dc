use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const USER: RuleId = RuleId::UserPerHour;
const ADDRESS: RuleId = RuleId::AddressPerMinute;
const SESSION: RuleId = RuleId::SessionPerMinute;
const HOURLY: RuleId = RuleId::AddressPerHour;
const HOUR: u64 = 3_600_000;

fn limits(hour: u32, address: u32, session: u32, keys: u32) -> ChatLimits {
    ChatLimits {
        requests_per_hour: hour,
        requests_per_ip_per_minute: address,
        // Another number than the minute's, so that either of them is the one that refuses.
        requests_per_ip_per_hour: address.saturating_mul(2),
        requests_per_session_per_minute: session,
        limiter_keys_max: keys,
        ..ChatLimits::default()
    }
}

#[test]
fn g80_the_101st_request_of_an_hour_is_refused_in_the_specified_words() {
    let limiter = Limiter::new(&ChatLimits::default());
    for n in 0..100 {
        assert!(limiter.admit(&[(USER, "cli_user")], n).is_ok(), "request {n}");
    }
    let limited = limiter.admit(&[(USER, "cli_user")], 1_000).unwrap_err();
    assert_eq!(limited.to_string(), "Rate limit exceeded. Max 100 requests per hour.");
    assert_eq!(limited.retry_after_s, 3_599);
    assert_eq!(TurnError::from(limited).to_string(), "Rate limit exceeded. Max 100 requests per hour.");
}

#[test]
fn g69_a_full_hour_then_a_full_hour_never_makes_199_in_one() {
    let limiter = Limiter::new(&limits(100, 0, 0, 10));
    let mut admitted = Vec::new();
    // The worst timing against a fixed window or a bucket: one request, a pause, the rest at the window's end, and on.
    let tries = std::iter::once(0).chain((0..400).map(|n| HOUR - 1 + n)).chain((0..400).map(|n| 2 * HOUR - 1 + n));
    for now in tries {
        if limiter.admit(&[(USER, "a")], now).is_ok() {
            admitted.push(now);
        }
    }
    let most = admitted.iter().map(|from| admitted.iter().filter(|t| (*from..from + HOUR).contains(t)).count()).max();
    assert_eq!(most, Some(100));
}

#[test]
fn g46_all_keys_are_counted_together_or_not_at_all() {
    let limiter = Limiter::new(&limits(100, 2, 1, 10));
    let keys = [(USER, "u"), (ADDRESS, "1.1.1.1"), (SESSION, "s")];
    assert!(limiter.admit(&keys, 0).is_ok());
    for _ in 0..50 {
        assert_eq!(limiter.admit(&keys, 1).unwrap_err().rule, SESSION);
    }
    // The fifty refusals cost the address nothing: it still has its second request.
    assert!(limiter.admit(&[(ADDRESS, "1.1.1.1")], 2).is_ok());
    assert_eq!(limiter.admit(&[(ADDRESS, "1.1.1.1")], 3).unwrap_err().rule, ADDRESS);
    assert!(limiter.admit(&keys[..2], 60_001).is_ok());
}

#[test]
fn g46_entries_older_than_the_window_are_evicted_and_keys_with_them() {
    let limiter = Limiter::new(&limits(100, 5, 5, 10));
    for key in ["a", "b", "c"] {
        assert!(limiter.admit(&[(ADDRESS, key)], 0).is_ok());
    }
    assert_eq!(limiter.keys(), 3);
    assert!(limiter.admit(&[(ADDRESS, "d")], 60_000).is_ok());
    assert_eq!(limiter.keys(), 1);
}

#[test]
fn g46_a_key_beyond_the_most_is_refused_and_never_makes_another_fresh() {
    let limiter = Limiter::new(&limits(100, 1, 1, 2));
    assert!(limiter.admit(&[(ADDRESS, "a")], 0).is_ok());
    assert!(limiter.admit(&[(ADDRESS, "b")], 10).is_ok());
    let limited = limiter.admit(&[(ADDRESS, "c")], 20).unwrap_err();
    assert_eq!((limited.because, limited.retry_after_s), (Because::Keys, 60));
    assert_eq!(limiter.admit(&[(ADDRESS, "a")], 30).unwrap_err().because, Because::Quota);
    // The first expires: its place is free at that very millisecond, and the other's is not.
    assert!(limiter.admit(&[(ADDRESS, "c")], 59_999).is_err());
    assert!(limiter.admit(&[(ADDRESS, "c")], 60_000).is_ok());
    assert_eq!(limiter.admit(&[(ADDRESS, "b")], 60_001).unwrap_err().because, Because::Quota);
}

#[test]
fn g46_a_clock_set_back_neither_widens_a_quota_nor_locks_anybody_out() {
    let limiter = Limiter::new(&limits(2, 0, 0, 10));
    assert!(limiter.admit(&[(USER, "u")], 50 * HOUR).is_ok());
    assert!(limiter.admit(&[(USER, "u")], 50 * HOUR + 1).is_ok());
    assert!(limiter.admit(&[(USER, "u")], 10 * HOUR).is_err(), "back by forty hours");
    assert!(limiter.admit(&[(USER, "u")], 11 * HOUR - 2).is_err(), "not an hour of it has passed");
    assert!(limiter.admit(&[(USER, "u")], 11 * HOUR).is_ok(), "an hour has passed since");
}

#[test]
fn g46_a_zero_lets_nobody_in_and_a_key_given_twice_counts_once() {
    let limiter = Limiter::new(&limits(0, 2, 0, 10));
    let refused = limiter.admit(&[(USER, "u")], 0).unwrap_err();
    assert_eq!((refused.max, refused.retry_after_s), (0, 3_600));
    assert!(limiter.admit(&[(ADDRESS, "x"), (ADDRESS, "x")], 0).is_ok());
    assert!(limiter.admit(&[(ADDRESS, "x")], 0).is_ok());
    assert!(limiter.admit(&[(ADDRESS, "x")], 0).is_err());
}

#[test]
fn g46_addresses_of_one_ipv6_network_are_one_key() {
    let key = |text: &str| address_key(text.parse().unwrap());
    assert_eq!(key("192.0.2.7"), "192.0.2.7");
    assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
    assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    assert_eq!(key("2001:db8:1:2::9"), key("2001:db8:1:2:ffff::"));
    assert_ne!(key("2001:db8:1:2::9"), key("2001:db8:1:3::9"));
}

#[test]
fn g46_the_longest_wait_is_told_when_several_rules_refuse() {
    let limiter = Limiter::new(&limits(1, 1, 1, 10));
    let keys = [(SESSION, "s"), (USER, "u"), (ADDRESS, "a")];
    assert!(limiter.admit(&keys, 0).is_ok());
    let limited = limiter.admit(&keys, 500).unwrap_err();
    assert_eq!((limited.rule, limited.window, limited.retry_after_s), (USER, "hour", 3_600));
    assert!(limiter.admit(&keys, 500 + 3_600_000).is_ok());
}

/// Every admitted request of every key, for ever.
#[derive(Default)]
struct Oracle {
    admitted: HashMap<(u8, u8), Vec<u64>>,
}

impl Oracle {
    fn live(&self, key: (u8, u8), window: u64, now: u64) -> usize {
        self.admitted.get(&key).map_or(0, |times| times.iter().filter(|t| *t + window > now).count())
    }
}

proptest! {
    #[test]
    fn g46_g69_it_says_what_a_complete_memory_would(
        maxima in (0u32..4, 0u32..4, 0u32..4),
        keys_max in 1u32..8,
        steps in proptest::collection::vec((0u64..40_000, prop::option::of(0u8..3), prop::option::of(0u8..4), prop::option::of(0u8..4)), 1..120),
        scale in prop_oneof![Just(1u64), Just(20), Just(100)],
    ) {
        let limiter = Limiter::new(&limits(maxima.0, maxima.1, maxima.2, keys_max));
        let mut oracle = Oracle::default();
        let mut now = 5_000_000u64;
        for (step, user, address, session) in steps {
            now += step * scale;
            let names: Vec<(RuleId, u8, String)> = [(USER, user), (ADDRESS, address), (HOURLY, address), (SESSION, session)]
                .into_iter().filter_map(|(rule, key)| key.map(|key| (rule, key, key.to_string()))).collect();
            let keys: Vec<(RuleId, &str)> = names.iter().map(|(rule, _, name)| (*rule, name.as_str())).collect();
            let max = |rule| match rule { USER => maxima.0, ADDRESS => maxima.1, HOURLY => maxima.1 * 2, SESSION => maxima.2 };
            let live = |oracle: &Oracle, rule: RuleId, key: u8, now| {
                oracle.live((rule.index() as u8, key), rule.window().ms(), now)
            };
            let room = |oracle: &Oracle, now| {
                let quota = names.iter().all(|(rule, key, _)| live(oracle, *rule, *key, now) < max(*rule) as usize);
                let new = names.iter().filter(|(rule, key, _)| live(oracle, *rule, *key, now) == 0).count();
                let all = RuleId::ALL.iter().flat_map(|rule| (0..4).map(move |key| (*rule, key)));
                let kept = all.filter(|(rule, key)| live(oracle, *rule, *key, now) > 0).count();
                (quota, kept + new <= keys_max as usize)
            };
            let expected = room(&oracle, now) == (true, true);
            match limiter.admit(&keys, now) {
                Ok(_) => {
                    prop_assert!(expected);
                    for (rule, key, _) in &names {
                        oracle.admitted.entry((rule.index() as u8, *key)).or_default().push(now);
                    }
                }
                Err(limited) => {
                    prop_assert!(!expected);
                    // Exact: with nothing in between, a second earlier is too early, and then it is not.
                    let never = names.iter().any(|(rule, _, _)| max(*rule) == 0);
                    if !never && limited.because == Because::Quota {
                        let wait = u64::from(limited.retry_after_s) * 1000;
                        prop_assert!(room(&oracle, now + wait).0);
                        prop_assert!(!room(&oracle, now + wait - 1000).0);
                    }
                }
            }
            prop_assert!(limiter.keys() <= keys_max as usize);
        }
    }

    #[test]
    fn g46_no_clock_however_it_jumps_back_widens_a_quota(
        jumps in proptest::collection::vec((0u64..90_000, 0u64..50_000_000, any::<bool>()), 1..200),
    ) {
        let limiter = Limiter::new(&limits(100, 3, 100, 10));
        let (mut true_ms, mut told) = (0u64, 100_000_000u64);
        let mut admitted: Vec<u64> = Vec::new();
        for (step, jump, back) in jumps {
            true_ms += step;
            told += step;
            if back {
                told = told.saturating_sub(jump);
            }
            if limiter.admit(&[(ADDRESS, "x")], told).is_ok() {
                admitted.push(true_ms);
            }
        }
        for from in &admitted {
            prop_assert!(admitted.iter().filter(|t| (*from..from + 60_000).contains(t)).count() <= 3);
        }
    }
}
