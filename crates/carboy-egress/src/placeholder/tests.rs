use http::HeaderMap;
use proptest::prelude::*;

use super::spans::json_units;
use super::*;

const FAKE: &str = "ghp_aBc1/dE+=";

fn of(kind: &str) -> Writing {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    Writing::of(&headers)
}

/// The body with `REAL` written where a placeholder was.
fn filled(kind: &str, name: Option<&str>, body: &str, real: &str) -> String {
    let writing = of(kind);
    let found = writing.spans(body.as_bytes(), name, FAKE.as_bytes());
    String::from_utf8(replaced(body.as_bytes(), &found, writing.written(real).expose().as_bytes())).unwrap()
}

#[test]
fn b42_json_is_filled_in_the_strings_of_the_name_however_they_are_escaped() {
    for (body, wanted) in [
        (r#"{"secret":"ghp_aBc1/dE+="}"#, r#"{"secret":"r\"1"}"#),
        (r#"{ "secret" : "x ghp_aBc1\/dE\u002b= y" }"#, r#"{ "secret" : "x r\"1 y" }"#),
        (r#"{"a":{"secret":"\u0067hp_aBc1/dE+="},"b":1}"#, r#"{"a":{"secret":"r\"1"},"b":1}"#),
        (r#"{"s\u0065cret":"ghp_aBc1/dE+="}"#, r#"{"s\u0065cret":"r\"1"}"#),
        // Elsewhere it stays, and is the scanners' to refuse.
        (r#"{"other":"ghp_aBc1/dE+="}"#, r#"{"other":"ghp_aBc1/dE+="}"#),
        (r#"{"secret":["ghp_aBc1/dE+="]}"#, r#"{"secret":["ghp_aBc1/dE+="]}"#),
        (r#"{"secret":1,"ghp_aBc1/dE+=":2}"#, r#"{"secret":1,"ghp_aBc1/dE+=":2}"#),
        (r#"["secret","ghp_aBc1/dE+="]"#, r#"["secret","ghp_aBc1/dE+="]"#),
        (r#"{"x":"\"secret\":","ghp_aBc1/dE+=":1}"#, r#"{"x":"\"secret\":","ghp_aBc1/dE+=":1}"#),
    ] {
        assert_eq!(filled("application/json", Some("secret"), body, "r\"1"), wanted);
    }
    let lines = "{\"a\":\"ghp_aBc1/dE+=\"}\n[\"ghp_aBc1/dE+=\"]\n";
    assert_eq!(filled("application/x-ndjson", None, lines, "R"), "{\"a\":\"R\"}\n[\"R\"]\n");
    assert_eq!(filled("application/vnd.api+json; charset=utf-8", None, "\"ghp_aBc1/dE+=\"", "R"), "\"R\"");
}

#[test]
fn b42_a_form_is_filled_in_the_fields_of_the_name_and_escaped() {
    let form = "application/x-www-form-urlencoded";
    for (body, wanted) in [
        ("a=1&secret=ghp_aBc1%2FdE%2B%3D&b=2", "a=1&secret=R%26+&b=2"),
        ("secret=ghp_aBc1/dE%2b=&secret=x", "secret=R%26+&secret=x"),
        ("s%65cret=%67hp_aBc1%2fdE%2B%3d", "s%65cret=R%26+"),
        ("other=ghp_aBc1%2FdE%2B%3D", "other=ghp_aBc1%2FdE%2B%3D"),
        ("ghp_aBc1%2FdE%2B%3D=secret&secret", "ghp_aBc1%2FdE%2B%3D=secret&secret"),
    ] {
        assert_eq!(filled(form, Some("secret"), body, "R& ").replace("%20", "+"), wanted);
    }
}

#[test]
fn b42_other_text_is_filled_where_it_has_no_names() {
    let body = "--b\r\ncontent-disposition: form-data; name=\"t\"\r\n\r\nghp_aBc1/dE+=\r\n--b--";
    assert_eq!(filled("multipart/form-data; boundary=b", None, body, "R"), body.replace(FAKE, "R"));
    assert_eq!(filled("multipart/form-data; boundary=b", Some("t"), body, "R"), body);
    assert_eq!(filled("text/xml", None, "<t>ghp_aBc1/dE+=</t>", "a&<b"), "<t>a&amp;&lt;b</t>");
}

#[test]
fn b42_basic_credentials_are_read_as_clients_write_them() {
    for text in ["Basic dTpw", "basic  dTpw", "BASIC dTpw=="] {
        assert_eq!(&**basic(text.as_bytes()).unwrap().1, b"u:p", "{text}");
    }
    for text in ["Bearer dTpw", "Basic", "Basic ###", "Basicd dTpw"] {
        assert!(basic(text.as_bytes()).is_none(), "{text}");
    }
}

proptest! {
    #[test]
    fn b42_what_stands_around_a_placeholder_stays_byte_for_byte(
        parts in proptest::collection::vec("[a-c]{0,6}", 1..6),
        wanted in "[a-c]{1,5}",
    ) {
        // Against a search that is too simple to be wrong.
        let text = parts.join(&wanted);
        let found = spans(plain(text.as_bytes()), wanted.as_bytes());
        prop_assert_eq!(String::from_utf8(replaced(text.as_bytes(), &found, b"R")).unwrap(), text.replace(&wanted, "R"));
    }

    #[test]
    fn b42_any_spelling_of_a_json_string_reads_the_same(text in "[ -~]{1,40}", escaped in proptest::collection::vec(any::<bool>(), 40)) {
        let spelled: String = text.chars().zip(escaped).map(|(c, escaped)| match (c, escaped) {
            ('"' | '\\', false) => format!("\\{c}"),
            (c, true) => format!("\\u{:04X}", u32::from(c)),
            (c, false) => c.to_string(),
        }).collect();
        let read: Vec<u8> = json_units(spelled.as_bytes(), 0).map(|(byte, _)| byte).collect();
        prop_assert_eq!(String::from_utf8(read).unwrap(), text.clone());
        let document = format!("{{\"k\":\"{}\"}}", Writing::Json.written(&text).expose());
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        prop_assert_eq!(value["k"].as_str(), Some(text.as_str()));
    }
}
