//! A reservation's life, and the laws that hold whatever happens to thousands of them.

use proptest::prelude::*;

use super::*;
use crate::budget::{Caching, CapKind, Window};

fn meter() -> MeterName {
    MeterName::parse("anthropic").unwrap()
}

fn cap(scope: Scope, tokens: u64, window: Window) -> Cap {
    let amount = Amount::tokens(tokens).unwrap();
    Cap { scope, kind: CapKind::Ceiling, amount, count: Count::Raw, window, most: None }
}

fn admission(id: u128, owner: u64, caps: &[Cap], input: u64, output: u64, at_ms: u64) -> Admission {
    Admission {
        id: ReservationId(id),
        owner,
        meter: meter(),
        model: None,
        chain: vec![Scope::Bottle("b".into()), Scope::Host],
        caps: caps.to_vec(),
        worst: Worst { input, caching: Caching::Possible, output, output_min: 10, answers: 1 },
        counted: Counted::Final,
        gate: Gate::Reserve,
        overrun: Overrun::Exact,
        waiting: 0,
        at_ms,
    }
}

fn held(output: u64) -> Answer {
    Answer::Held(Granted { output: Some(output), held: output })
}

fn cost(input: u64, output: u64) -> Settlement {
    Settlement { usage: Usage { input, output, ..Usage::default() }, estimated: false }
}

#[test]
fn a_reservation_is_held_sent_and_settled_once() {
    let host = [cap(Scope::Host, 10_000, Window::Lifetime)];
    let (mut book, id) = (Book::default(), ReservationId(1));
    let (decision, row) = book.admit(&admission(1, 7, &host, 100, 500, 0));
    assert_eq!((decision, row.is_some()), (held(500), true));
    // Asked again, as a client that lost the answer would.
    assert_eq!(book.admit(&admission(1, 7, &host, 100, 500, 0)), (held(500), None));
    assert_eq!(book.standing(&host[0], &meter(), 0).held, Amount::tokens(664).unwrap());
    assert_eq!(book.settle(id, &cost(100, 20)), Err(BookError::NotSent));
    book.dispatch(id).unwrap();
    assert_eq!(book.release(id), Err(BookError::Sent));
    book.settle(id, &cost(100, 20)).unwrap();
    // The same ending twice is charged once.
    assert_eq!(book.settle(id, &cost(100, 20)), Ok(None));
    assert_eq!(book.settle(ReservationId(2), &cost(100, 20)), Err(BookError::Unknown));
    let standing = book.standing(&host[0], &meter(), 0);
    assert_eq!((standing.spent, standing.held), (Amount::tokens(120).unwrap(), Amount::ZERO));
    assert_eq!(book.total(&Scope::Bottle("b".into()), &meter()).raw, Amount::tokens(120).unwrap());
}

#[test]
fn an_owner_that_is_gone_is_charged_for_what_it_may_have_sent() {
    let host = [cap(Scope::Host, 100_000, Window::Lifetime)];
    let mut book = Book::default();
    for id in 1..=3 {
        book.admit(&admission(id, if id == 3 { 8 } else { 7 }, &host, 100, 500, 0));
    }
    book.dispatch(ReservationId(1)).unwrap();
    assert_eq!(book.owner_gone(7).len(), 2);
    let standing = book.standing(&host[0], &meter(), 0);
    assert_eq!((standing.spent, standing.held), (Amount::tokens(664).unwrap(), Amount::tokens(664).unwrap()));
}

#[test]
fn more_than_was_held_is_charged_in_full_and_told() {
    let mut book = Book::default();
    book.admit(&admission(1, 7, &[], 100, 500, 0));
    book.dispatch(ReservationId(1)).unwrap();
    let Ok(Some(Row::Spent(spent))) = book.settle(ReservationId(1), &cost(100, 5000)) else { panic!() };
    assert_eq!((spent.charged.raw, spent.overrun.raw), (Amount::tokens(5100).unwrap(), Amount::tokens(4436).unwrap()));
    book.admit(&admission(2, 7, &[], 1, 1, 0));
    book.dispatch(ReservationId(2)).unwrap();
    assert_eq!(book.settle(ReservationId(2), &cost(u64::MAX, 1)), Err(BookError::Absurd));
}

#[test]
fn a_hold_counts_in_the_window_of_its_admission() {
    let hour = [cap(Scope::Host, 1_000, Window::Rolling { ms: 3_600_000 })];
    let (mut book, start) = (Book::default(), 10 * 3_600_000);
    book.admit(&admission(1, 7, &hour, 100, 500, start));
    book.dispatch(ReservationId(1)).unwrap();
    assert!(matches!(book.admit(&admission(2, 7, &hour, 300, 500, start)).0, Answer::Wait(_)));
    // Settled two hours later, it is spent in its own hour, and nothing of it binds the present one.
    let later = start + 2 * 3_600_000;
    book.settle(ReservationId(1), &cost(100, 400)).unwrap();
    assert_eq!(book.standing(&hour[0], &meter(), later).spent, Amount::ZERO);
    assert_eq!(book.standing(&hour[0], &meter(), start + 3_000_000).spent, Amount::tokens(500).unwrap());
    assert_eq!(book.admit(&admission(3, 7, &hour, 100, 500, later)).0, held(500));
}

#[test]
fn a_name_is_written_in_hex_and_read_back() {
    for id in [ReservationId(0), ReservationId(u128::MAX), ReservationId(1 << 90)] {
        let text = String::from(id);
        assert_eq!((text.len(), ReservationId::try_from(text)), (32, Ok(id)));
    }
    for text in ["", "12", "+1111111111111111111111111111111", "ABCDEF00000000000000000000000000"] {
        assert!(ReservationId::try_from(text.to_owned()).is_err(), "{text}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit { input: u64, output: u64, owner: u64 },
    Dispatch(usize),
    Settle(usize, u64),
    Release(usize),
    Gone(u64),
    Later(u64),
    Recap(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3000_u64, 1..20_000_u64, 0..3_u64).prop_map(|(input, output, owner)| Step::Admit { input, output, owner }),
        3 => any::<usize>().prop_map(Step::Dispatch),
        3 => (any::<usize>(), 0..=100_u64).prop_map(|(which, part)| Step::Settle(which, part)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => (0..3_u64).prop_map(Step::Gone),
        1 => (1..100_u64).prop_map(|minutes| Step::Later(minutes * GRAIN_MS)),
        1 => (1000..100_000_u64).prop_map(Step::Recap),
    ]
}

proptest! {
    // I1, I3, I4, and that the rows rebuild the book.
    #[test]
    fn whatever_happens_the_book_stays_within_its_caps_and_its_rows_rebuild_it(steps in prop::collection::vec(step(), 1..120)) {
        let mut caps = vec![
            cap(Scope::Host, 50_000, Window::Lifetime),
            Cap { count: Count::Weighted, ..cap(Scope::Bottle("b".into()), 30_000, Window::Rolling { ms: 30 * GRAIN_MS }) },
        ];
        let (mut book, mut rows, mut now, mut next) = (Book::default(), Vec::new(), 100 * GRAIN_MS, 0_u128);
        let mut truth = Amount::ZERO;
        for step in steps {
            let pick = |which: usize, book: &Book| {
                let all: Vec<Reservation> = book.reservations().cloned().collect();
                (!all.is_empty()).then(|| all[which % all.len()].clone())
            };
            match step {
                Step::Admit { input, output, owner } => {
                    next += 1;
                    let before: Vec<Standing> = caps.iter().map(|c| book.standing(c, &meter(), now)).collect();
                    let (decision, row) = book.admit(&admission(next, owner, &caps, input, output, now));
                    rows.extend(row);
                    if let Answer::Held(_) = decision {
                        for (cap, before) in caps.iter().zip(before) {
                            let after = book.standing(cap, &meter(), now);
                            // A cap that was lowered below what is spent admits nothing; else all stays within it.
                            prop_assert!(after.spent.plus(after.held).unwrap() <= after.cap, "{before:?} {after:?}");
                        }
                    }
                }
                Step::Dispatch(which) => rows.extend(pick(which, &book).and_then(|r| book.dispatch(r.id).ok())),
                Step::Settle(which, part) => {
                    if let Some(r) = pick(which, &book) && r.stage == Stage::Dispatched {
                        let real = cost(0, r.granted.held * part / 100);
                        rows.extend(book.settle(r.id, &real).unwrap());
                        truth = truth.plus(Both::of(&real.usage).unwrap().raw).unwrap();
                    }
                }
                Step::Release(which) => {
                    if let Some(r) = pick(which, &book) {
                        let released = book.release(r.id);
                        prop_assert_eq!(released.is_ok(), r.stage == Stage::Open);
                        rows.extend(released.ok());
                    }
                }
                Step::Gone(owner) => {
                    for row in book.owner_gone(owner) {
                        if let Row::Spent(spent) = &row {
                            truth = truth.plus(spent.charged.raw).unwrap();
                        }
                        rows.push(row);
                    }
                }
                Step::Later(ms) => now += ms,
                Step::Recap(tokens) => caps[0].amount = Amount::tokens(tokens).unwrap(),
            }
            prop_assert_eq!(book.total(&Scope::Host, &meter()).raw, truth);
            // I3: what is held is the sum of what is under way, by every scope and window.
            let sum = |since: u64| {
                let later = book.reservations().filter(|r| r.at_ms / GRAIN_MS >= since / GRAIN_MS);
                later.fold(Both::default(), |sum, r| sum.or_most(r.hold))
            };
            for cap in &caps {
                let window = sum(cap.window.since_ms(now)).by(cap.count);
                prop_assert_eq!(book.standing(cap, &meter(), now).held, window);
            }
        }
        for owner in 0..3 {
            rows.extend(book.owner_gone(owner));
        }
        prop_assert_eq!(book.reservations().count(), 0);
        let mut rebuilt = Book::default();
        rows.iter().for_each(|row| rebuilt.apply(row));
        prop_assert_eq!(&rebuilt.spent, &book.spent);
        prop_assert!(rebuilt.held.0.is_empty() && book.held.0.is_empty());
    }
}

#[test]
fn a_tranche_is_held_first_and_extended_as_far_as_there_is_room() {
    let host = [cap(Scope::Host, 20_000, Window::Lifetime)];
    let (mut book, id) = (Book::default(), ReservationId(1));
    let bounded = |id| Admission { overrun: Overrun::Bounded, ..admission(id, 7, &host, 1_000, 64_000, 0) };
    let first = Granted { output: Some(64_000), held: TRANCHE_TOKENS };
    assert_eq!(book.admit(&bounded(1)).0, Answer::Held(first));
    // A second one holds 9,000 and more; then there is room for a part of what is asked.
    book.admit(&bounded(2));
    let (granted, row) = book.extend(id, 30_000, &host).unwrap();
    assert_eq!((granted.held, granted.output, row.is_some()), (13_693, Some(64_000), true));
    assert_eq!(book.extend(id, 13_000, &host), Ok((granted, None)));
    // What others hold is in the way, and may be given back; what is spent is not.
    assert!(matches!(book.extend(id, 30_000, &host), Err(NotHeld::Busy(_))));
    book.dispatch(ReservationId(2)).unwrap();
    book.settle(ReservationId(2), &cost(1_000, 4_096)).unwrap();
    assert!(matches!(book.extend(id, 30_000, &host), Ok((granted, Some(_))) if granted.held > 13_693));
    assert!(matches!(book.extend(id, 30_000, &host), Err(NotHeld::Exhausted(_))));
    assert_eq!(book.extend(ReservationId(9), 1, &host), Err(NotHeld::Unknown));
}

#[test]
fn an_observed_request_is_refused_only_when_everything_is_spent() {
    let host = [cap(Scope::Host, 1_000, Window::Lifetime)];
    let mut book = Book::default();
    let observed = |id| Admission { gate: Gate::Observe, ..admission(id, 7, &host, 5_000, 64_000, 0) };
    let granted = Answer::Held(Granted { output: None, held: 64_000 });
    assert_eq!((book.admit(&observed(1)).0, book.admit(&observed(2)).0), (granted.clone(), granted));
    for (id, output) in [(1, 10), (2, 980)] {
        book.dispatch(ReservationId(id)).unwrap();
        book.settle(ReservationId(id), &cost(5, output)).unwrap();
    }
    let Answer::Exhausted(binding) = book.admit(&observed(3)).0 else { panic!() };
    assert_eq!(binding.to_string(), "ceiling of host for anthropic: 1k of 1k tokens spent, 0 held");
}

#[test]
fn c5_a_bound_near_a_cap_is_counted_before_anything_is_held() {
    let host = [cap(Scope::Host, 10_000, Window::Lifetime)];
    let mut book = Book::default();
    let bound = |id| Admission { counted: Counted::Bound, ..admission(id, 7, &host, 1_000, 8_000, 0) };
    assert_eq!(book.peek(&bound(1)), Answer::CountFirst);
    assert_eq!(book.admit(&bound(1)), (Answer::CountFirst, None));
    assert_eq!(book.held(&Scope::Host, &meter()), Both::default());
}

proptest! {
    // I2: in tranches nothing goes beyond a cap but what providers wrote between the last held token and the cut.
    #[test]
    fn tranches_stay_within_every_cap_but_for_what_came_after_the_last_held_token(
        steps in prop::collection::vec((0..6_u8, any::<usize>(), 0..3000_u64, 1..40_000_u64, 0..80_u64), 1..120),
    ) {
        let caps = [
            cap(Scope::Host, 60_000, Window::Lifetime),
            Cap { count: Count::Weighted, ..cap(Scope::Bottle("b".into()), 40_000, Window::Rolling { ms: 30 * GRAIN_MS }) },
        ];
        let (mut book, mut now, mut beyond) = (Book::default(), 100 * GRAIN_MS, Both::default());
        for (n, (what, which, input, output, more)) in steps.into_iter().enumerate() {
            let all: Vec<Reservation> = book.reservations().cloned().collect();
            let picked = (!all.is_empty()).then(|| all[which % all.len()].clone());
            match (what, picked) {
                (0 | 1, _) | (_, None) => {
                    let overrun = if which % 3 == 0 { Overrun::Exact } else { Overrun::Bounded };
                    let admission = Admission { overrun, ..admission(n as u128, 7, &caps, input, output, now) };
                    book.admit(&admission);
                }
                (2 | 3, Some(r)) => {
                    let asked = r.granted.held + output;
                    if let Ok((granted, _)) = book.extend(r.id, asked, &caps) {
                        prop_assert!(granted.held > r.granted.held || r.granted.held == r.worst.output);
                        prop_assert!(granted.held <= asked && granted.held <= r.worst.output);
                    }
                }
                (4, Some(r)) => {
                    book.dispatch(r.id).unwrap();
                    let real = cost(r.worst.input, r.granted.held * output / 40_000 + more);
                    let Ok(Some(Row::Spent(spent))) = book.settle(r.id, &real) else { panic!() };
                    prop_assert!(spent.overrun.raw <= Amount::tokens(more).unwrap());
                    beyond = beyond.or_most(spent.overrun);
                }
                (_, Some(_)) => now += more * GRAIN_MS / 4,
            }
            for cap in &caps {
                let Standing { cap: amount, spent, held, .. } = book.standing(cap, &meter(), now);
                let most = amount.plus(beyond.by(cap.count)).unwrap();
                prop_assert!(spent.plus(held).unwrap() <= most, "{spent:?} {held:?} {most:?}");
            }
        }
    }
}
