//! The one policy (G5).

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil::{Date, date};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{DAY_MS, NOW, SARAH, Session, Shop, of};
use crate::config::{RETURN_POLICY, ReturnPolicy};
use crate::data::{Format, Line, Order, OrderId, Status, day};
use crate::tools::{Ineligible, Judged, judge};
use crate::{agent, server};

#[test]
fn g5_one_number_changes_the_prompt_the_check_its_words_and_the_policy_that_is_quoted() {
    for days in [11, 12, 30, 45] {
        let policy = ReturnPolicy { window_days: days, ..RETURN_POLICY };
        let words = format!("within {days} days of delivery");
        let prompt = agent::spec(server::TITLE, server::GREETING, &policy).unwrap().prompt.system;
        assert!(prompt.contains(&words), "{days}");
        let (shop, mut session) = (Shop::with(policy), Session::new());
        let said = session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
        assert_eq!(
            (&said["eligible"], &said["window_days"]),
            (&json!(days >= 12), &json!(days)),
            "delivered 12 days ago"
        );
        let quoted = session.call(&shop, "lookup_policy", json!({"topic": "returns"})).unwrap();
        assert!(quoted["text"].as_str().unwrap().contains(&words));
    }
}

fn order(status: Status, delivered_on: Option<Date>, formats: &[Format], returned: BTreeSet<u8>) -> Order {
    let line = |(number, format): (u8, &Format)| Line {
        number,
        title: "A book".into(),
        author: "Somebody".into(),
        format: *format,
        quantity: 1,
        price_cents: 100,
    };
    Order {
        id: OrderId::parse("BK-0001").unwrap(),
        status,
        placed_on: date(2020, 1, 1),
        delivered_on,
        expected_on: None,
        lines: (1..).zip(formats).map(line).collect(),
        returned,
    }
}

#[test]
fn g5_the_last_day_of_the_window_counts_and_the_next_does_not() {
    let delivered = date(2026, 1, 31);
    let order = order(Status::Delivered, Some(delivered), &[Format::Paperback], BTreeSet::new());
    let judged = |day| judge(&order, day, &RETURN_POLICY);
    let eligible = Judged::Eligible { lines: BTreeSet::from([1]), until: date(2026, 3, 2) };
    assert_eq!(judged(delivered), eligible);
    assert_eq!(judged(date(2026, 3, 2)), eligible);
    assert_eq!(judged(date(2026, 3, 3)), Judged::Not(Ineligible::WindowClosed(date(2026, 3, 2))));
    assert_eq!(judged(date(2026, 1, 30)), Judged::Not(Ineligible::NotDelivered), "a clock that was set back");
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::Paperback, Format::Hardcover, Format::Ebook, Format::GiftCard])
}

proptest! {
    #[test]
    fn g5_eligibility_is_decided_by_order_day_and_policy_alone(
        status in prop::sample::select(vec![Status::Processing, Status::InTransit, Status::Delivered]),
        ago in prop::option::of(-40i32..400),
        window in 0u16..400,
        formats in prop::collection::vec(any_format(), 0..6),
        returned in prop::collection::btree_set(1u8..7, 0..6),
    ) {
        let today = date(2026, 5, 28);
        let delivered = ago.map(|days| today - jiff::Span::new().days(days));
        let policy = ReturnPolicy { window_days: window, ..RETURN_POLICY };
        let order = order(status, delivered, &formats, returned.clone());
        let judged = judge(&order, today, &policy);
        prop_assert_eq!(&judged, &judge(&order.clone(), today, &policy));

        let open = status == Status::Delivered && ago.is_some_and(|days| (0..=i32::from(window)).contains(&days));
        let expected: BTreeSet<u8> = (1..).zip(&formats)
            .filter(|(number, format)| !policy.excluded.contains(format) && !returned.contains(number))
            .map(|(number, _)| number)
            .collect();
        match judged {
            Judged::Eligible { lines, until } => {
                prop_assert!(open && !expected.is_empty() && until >= today);
                prop_assert_eq!(lines, expected);
            }
            Judged::Not(_) => prop_assert!(!open || expected.is_empty()),
        }
        // A longer window never takes a right away.
        let longer = ReturnPolicy { window_days: window + 1, ..policy };
        if matches!(judge(&order, today, &policy), Judged::Eligible { .. }) {
            let still = matches!(judge(&order, today, &longer), Judged::Eligible { .. });
            prop_assert!(still);
        }
    }

    #[test]
    fn g14_g15_whatever_is_given_a_check_ends_and_what_it_gives_passes_again(text in any::<String>(), email in any::<String>()) {
        let shop = SHOP.with(Arc::clone);
        for (tool, arguments) in [
            ("lookup_order", json!({"order_id": text, "customer_email": email})),
            ("lookup_policy", json!({"topic": text})),
        ] {
            let tool = shop.tool(tool);
            if let Ok(checked) = tool.check(&arguments) {
                prop_assert_eq!(tool.check(&Value::Object(checked.clone())).unwrap(), checked);
            }
        }
    }
}

thread_local! {
    static SHOP: Arc<Shop> = Arc::new(Shop::new());
}

#[test]
fn the_day_of_the_shop_is_that_of_universal_time() {
    assert_eq!(day(NOW), date(2026, 5, 28));
    assert_eq!(day(NOW / DAY_MS * DAY_MS - 1), date(2026, 5, 27));
    assert_eq!(day(u64::MAX), jiff::Timestamp::MAX.to_zoned(jiff::tz::TimeZone::UTC).date(), "no panic");
}
