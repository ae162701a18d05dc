//! The members of a map, cut out of the text as they stand in it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Borrowed where no escape stands in it.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Key and value of each member, in their order; `None` where it is no map, or a key stands in it twice.
pub(crate) fn members(body: &[u8]) -> Option<Vec<(Cow<'_, str>, &str)>> {
    let Members(members) = serde_json::from_slice(body).ok()?;
    let mut seen = BTreeSet::new();
    let once = members.iter().all(|(key, _)| seen.insert(key.as_ref()));
    once.then(|| members.iter().map(|(key, value)| (key.clone(), value.get())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_cut_out_as_it_stands() {
        let body = br#" {"a" : [1, 2.50] ,"b":{"c":"\u0041"},"\u0063":null} "#;
        let found: Vec<(String, &str)> = members(body).unwrap().into_iter().map(|(k, v)| (k.into_owned(), v)).collect();
        let want = [("a", "[1, 2.50]"), ("b", r#"{"c":"\u0041"}"#), ("c", "null")];
        assert_eq!(found, want.map(|(k, v)| (k.to_owned(), v)));
    }

    #[test]
    fn a_key_that_stands_twice_in_whatever_spelling_gives_nothing() {
        for body in [&br#"{"a":1,"a":2}"#[..], br#"{"a":1,"\u0061":2}"#, b"[]", b"{", b"", b"{\"a\":\"\xff\"}"] {
            assert!(members(body).is_none(), "{}", String::from_utf8_lossy(body));
        }
    }
}
