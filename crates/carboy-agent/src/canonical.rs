//! Values as octets that keys, tokens and proofs are made of: the same for equal values, others for every other value.
//!
//! RFC 8785, but for integers that an IEEE 754 double does not hold: there it writes neighbours alike (its appendix D), and
//! two orders with long numbers would be one. Those are written as texts behind [`MARK`]. A text that begins with the mark
//! itself has it doubled, so that no text is taken for a number. *Must never* be read back, or leave this program.

use serde_json::Value;

/// Begins what is written otherwise than RFC 8785 has it.
const MARK: char = '\0';
/// 2⁵³ − 1: up to here a double has every integer (RFC 7493, 2.2).
const EXACT_MAX: u64 = (1 << 53) - 1;

/// The octets of a value.
pub(crate) fn canonical(value: impl Into<Value>) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(&exact(value.into())).expect("a JSON value has a canonical form")
}

fn exact(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let beyond = match (number.as_u64(), number.as_i64()) {
                (Some(integer), _) => integer > EXACT_MAX,
                (None, Some(integer)) => integer.unsigned_abs() > EXACT_MAX,
                (None, None) => false,
            };
            if beyond { Value::String(format!("{MARK}{number}")) } else { Value::Number(number) }
        }
        Value::String(text) => Value::String(marked(text)),
        Value::Array(values) => Value::Array(values.into_iter().map(exact).collect()),
        Value::Object(map) => map.into_iter().map(|(name, value)| (name, exact(value))).collect(),
        Value::Null | Value::Bool(_) => value,
    }
}

fn marked(text: String) -> String {
    if text.starts_with(MARK) { format!("{MARK}{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn i1_neighbours_that_a_double_does_not_tell_apart_are_told_apart() {
        let mut seen = BTreeMap::new();
        let long =
            [1_u64 << 53, (1 << 53) + 1, 1_000_000_000_000_000_000, 1_000_000_000_000_000_001, u64::MAX, u64::MAX - 1];
        let values = long.iter().flat_map(|n| [json!(n), json!(n.to_string()), json!(format!("\0{n}")), json!([n])]);
        let negative = [i64::MIN, i64::MIN + 1, -(1 << 53), -(1 << 53) - 1].map(|n| json!(n));
        for value in values.chain(negative) {
            let earlier = seen.insert(canonical(value.clone()), value.clone());
            assert_eq!(earlier, None, "{value}");
        }
    }

    #[test]
    fn what_a_double_holds_is_written_as_rfc_8785_has_it() {
        let value = json!({"b": 9_007_199_254_740_991_u64, "a": [1.0, -5, "x", null]});
        assert_eq!(canonical(value), br#"{"a":[1,-5,"x",null],"b":9007199254740991}"#);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|n| json!(n)),
            ((1_u64 << 53) - 4..(1 << 53) + 4).prop_map(|n| json!(n)),
            "\0{0,2}[a0-9]{0,3}".prop_map(Value::String),
            any::<bool>().prop_map(Value::Bool),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[ab\0]{0,2}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_have_the_same_octets_only_if_they_are_equal(a in values(), b in values()) {
            prop_assert_eq!(a == b, canonical(a) == canonical(b));
        }
    }
}
