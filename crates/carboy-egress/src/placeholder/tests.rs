use http::HeaderMap;
use proptest::prelude::*;

use super::multipart::Boundary;

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
    assert_eq!(filled("text/plain", None, "a ghp_aBc1/dE+= b", "R"), "a R b");
    assert_eq!(filled("text/plain", Some("t"), "t=ghp_aBc1/dE+=", "R"), "t=ghp_aBc1/dE+=");
    assert_eq!(filled("text/xml", None, "<t>ghp_aBc1/dE+=</t>", "a&<b"), "<t>a&amp;&lt;b</t>");
}

/// As long as those of clients, and no part of it in what the tests write.
const BOUNDARY: &str = "----qZr3LmW5xKd0PyTn";
const FIELD: &str = "content-disposition: form-data; name=\"k\"\r\n\r\n";

/// The body as the scanners get it, with `R` where a placeholder was taken out.
fn lifted(kind: &str, name: Option<&str>, body: &str) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_bytes(kind.as_bytes()).unwrap());
    let slot = Slot {
        place: PlaceholderIn::Body(name.map(str::to_owned)),
        secret: SecretName::parse("K").unwrap(),
        placeholder: FAKE.to_owned(),
        mark: "R".to_owned(),
        used: false,
    };
    let mut lifted = Lifted { slots: vec![slot], writing: Writing::default() };
    String::from_utf8(lifted.lift_body(&headers, body.as_bytes().to_vec())).unwrap()
}

fn form_data() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// Parts, each with its head, as one body.
fn multipart(parts: &[&str]) -> String {
    let parts: String = parts.iter().map(|part| format!("--{BOUNDARY}\r\n{part}\r\n")).collect();
    format!("{parts}--{BOUNDARY}--\r\n")
}

#[test]
fn b42_form_data_are_filled_in_the_text_of_the_name_and_every_other_byte_stays() {
    let others = "Content-Disposition: form-data; name=\"f\"; filename=\"a \u{e9}.bin\"\r\nContent-Type: image/png\r\n\r\n\r\n--x\r\n\0\n";
    for head in [
        "content-disposition: form-data; name=\"k\"",
        "Content-Disposition:form-data;name=k",
        "CONTENT-DISPOSITION: \tForm-Data ; NAME=\"k\"",
        "Content-Type: text/plain; charset=UTF-8\r\nContent-Disposition: form-data; name=\"k\"\r\nContent-Transfer-Encoding: 8bit",
        "Content-Type: Text/Plain;charset=\"us-ascii\"\r\nContent-Disposition: form-data; name=\"k\"\r\nX-Any: 1",
    ] {
        for value in ["ghp_aBc1/dE+=", "Bearer ghp_aBc1/dE+=\r\n", "\r\n\nghp_aBc1/dE+=ghp_aBc1/dE+="] {
            for name in [Some("k"), None] {
                let part = format!("{head}\r\n\r\n{value}");
                let body = format!("preamble\r\n{}epilogue", multipart(&[others, &part, others]));
                assert_eq!(lifted(&form_data(), name, &body), body.replace(FAKE, "R"), "{part}");
            }
        }
    }
    // Without a name it may stand in a file as well, as anywhere in a text.
    let body = multipart(&["content-disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nghp_aBc1/dE+="]);
    assert_eq!(lifted(&form_data(), None, &body), body.replace(FAKE, "R"));
    for kind in [format!("Multipart/Form-Data;charset=utf-8;  Boundary=\"{BOUNDARY}\""), format!("{} ", form_data())] {
        let body = multipart(&[&format!("{FIELD}{FAKE}")]);
        assert_eq!(lifted(&kind, Some("k"), &body), body.replace(FAKE, "R"), "{kind}");
    }
}

#[test]
fn b42_form_data_are_not_filled_in_another_part_nor_outside_of_one() {
    for part in [
        "content-disposition: form-data; name=\"kk\"\r\n\r\nF",
        "content-disposition: form-data; name=\"K\"\r\n\r\nF",
        "content-disposition: form-data; name=\"%6b\"\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"; filename=\"\"\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"; filename*=utf-8''a\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"\r\ncontent-type: application/json\r\n\r\n\"F\"",
        "content-disposition: form-data; name=\"k\"\r\ncontent-type: text/plain; charset=utf-7\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"\r\ncontent-type: multipart/mixed; boundary=i\r\n\r\n--i\r\n\r\nF\r\n--i--",
        "content-disposition: form-data; name=\"k\"\r\ncontent-transfer-encoding: quoted-printable\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"\r\ncontent-transfer-encoding: base64\r\n\r\nF",
        "content-disposition: form-data; name=\"k\"\r\nx-note: F\r\n\r\nvalue",
        "content-disposition: form-data; name=\"k\"; x=\"F\"\r\n\r\nvalue",
        "content-disposition: form-data; name=\"F\"\r\n\r\nk",
        "content-disposition: form-data; x=\"; name=z\"; name=\"k\"\r\n\r\nF",
    ] {
        let body = multipart(&[&part.replace('F', FAKE)]);
        assert_eq!(lifted(&form_data(), Some("k"), &body), body);
    }
    let fine = multipart(&[&format!("{FIELD}value")]);
    for body in [format!("{FAKE}\r\n{fine}"), format!("{fine}{FAKE}"), format!("{FIELD}{FAKE}\r\n{fine}")] {
        for name in [Some("k"), None] {
            assert_eq!(lifted(&form_data(), name, &body), body);
        }
    }
}

#[test]
fn b42_form_data_that_can_be_read_in_two_ways_are_filled_nowhere() {
    let good = multipart(&[&format!("{FIELD}{FAKE}")]);
    let b = BOUNDARY;
    for kind in [
        "multipart/form-data".to_owned(),
        "multipart/form-data; boundary=".into(),
        "multipart/form-data; boundary=\"\"".into(),
        format!("multipart/form-data; boundary={b}; boundary={b}"),
        format!("multipart/form-data; boundary={b}; Boundary=other"),
        format!("multipart/form-data; boundary={b}; boundary*=utf-8''other"),
        format!("multipart/form-data; boundary*0={b}"),
        format!("multipart/form-data; x=\"boundary=y\"; boundary={b}"),
        format!("multipart/form-data; boundary =\"{b}\""),
        format!("multipart/form-data; boundary=\"{b}"),
        format!("multipart/form-data; boundary=\"{b}\" x"),
        format!("multipart/form-data; boundary=\"\\{b}\""),
        format!("multipart/form-data; boundary={b}, text/plain"),
        format!("multipart/form-data boundary={b}"),
        format!("multipart/form-data; boundary={}", "b".repeat(71)),
        format!("multipart/mixed; boundary={b}"),
        format!("text/plain, multipart/form-data; boundary={b}"),
        format!("multipart/form-data; charset=\u{e9}; boundary={b}"),
    ] {
        for name in [Some("k"), None] {
            assert_eq!(lifted(&kind, name, &good), good, "{kind}");
        }
    }
    let part = |head: &str| multipart(&[&format!("{head}\r\n\r\n{FAKE}")]);
    for body in [
        good.replace("\r\n", "\n"),
        good.replace("\r\n\r\n", "\n\n"),
        good.replace(&format!("\r\n--{b}--"), &format!("\n--{b}--")),
        good.replace(&format!("\r\n--{b}--\r\n"), ""),
        good.replace(&format!("--{b}--"), &format!("--{b}-")),
        good.replace(&format!("--{b}--"), &format!("--{b}--x")),
        good.replace(&format!("--{b}\r\n"), &format!("--{b} \r\n")),
        good.replace(&format!("--{b}\r\n"), &format!("--{b}x\r\n")),
        format!("{good}--{b}\r\n{FIELD}x\r\n--{b}--"),
        format!("{good}{b}"),
        format!("x{good}"),
        good.replace(FAKE, &format!("{FAKE}--{b}")),
        good.replace(FAKE, &format!("{FAKE}\n--{b}\n")),
        good.replace(FIELD, ""),
        good.replace(FIELD, "\r\n"),
        part("content-disposition: form-data"),
        part("content-disposition: attachment; name=\"k\""),
        part("content-type: text/plain"),
        part("content-disposition: form-data; name=\"k\"; name=\"k\""),
        part("content-disposition: form-data; name=\"k\"; NAME=\"x\""),
        part("content-disposition: form-data; name=\"k\"; name*=utf-8''x"),
        part("content-disposition: form-data; name=\"k\"; filename=a; filename=b"),
        part("content-disposition: form-data; name=\"k\"\r\ncontent-disposition: form-data; name=\"x\""),
        part("content-disposition: form-data; name=\"k\\\""),
        part("content-disposition: form-data; x=\"a\\\"; name=\"k\""),
        part("content-disposition: form-data; name=\"k\";"),
        part("content-disposition: form-data; name=\"k\" x"),
        part("content-disposition: form-data, name=\"k\""),
        part("content-disposition: form-data;\r\n name=\"k\""),
        part("content-disposition : form-data; name=\"k\""),
        part("content-disposition: form-data; name=\"k\"\r\nno colon"),
        part("content-disposition: form-data; name=\"k\"\r\nx: a\rb"),
        part("content-disposition: form-data; name=\"k\"\r\nx: a\n\n"),
        part("content-disposition: form-data; name=\"k\"\r\nx: \0"),
        part("content-disposition: form-data; name=\"k\"\r\ncontent-type: text/plain\r\ncontent-type: text/html"),
        // What is broken behind the field makes it no field.
        multipart(&[&format!("{FIELD}{FAKE}"), "broken"]),
    ] {
        assert_ne!(body, good);
        for name in [Some("k"), None] {
            assert_eq!(lifted(&form_data(), name, &body), body);
        }
    }
    let mut twice = HeaderMap::new();
    twice.append("content-type", form_data().parse().unwrap());
    twice.append("content-type", "text/plain".parse().unwrap());
    assert_eq!(Writing::of(&twice), Writing::Sealed);
}

#[test]
fn b42_a_boundary_is_no_guess_at_the_value() {
    let body = |value: &str, boundary: &str| format!("--{boundary}\r\n{FIELD}{value}\r\n--{boundary}--\r\n");
    let kind = |boundary: &str| format!("multipart/form-data; boundary=\"{boundary}\"");
    // Beginnings, ends and middles of what `ghp_aBc1/dE+=` may be outside, with what stands beside it.
    for (value, boundary, is_guess) in [
        ("--F", "ghp_x", true),
        ("F", "ghp_x", true),
        ("F", "zzz", true),
        ("known-by-who-tries-F", "known-by-who-tries-g", true),
        ("known-by-who-tries F", "known-by-who-tries-g", false),
        ("F-known-by-who-tries", "0-known-by-who-tries", true),
        ("F-known-by-who-tries", "0-known-by-who-tries2", false),
        ("longer-than-any-FF", "than-any-gzzzzzzzzzzzzq", true),
        ("FF", "xy", true),
    ] {
        let body = body(&value.replace('F', FAKE), boundary);
        let written = if is_guess { body.clone() } else { body.replace(FAKE, "R") };
        assert_eq!(lifted(&kind(boundary), Some("k"), &body), written, "{value} {boundary}");
    }
    // Those of clients, also beside a value in which they would have room.
    for boundary in [
        "------------------------f1vTr3LmW5xKd0PyB7nHc2",
        "c0ffee00c0ffee00c0ffee00c0ffee00",
        "----WebKitFormBoundaryq7vTr3LmW5xKd0Py",
        "===============5203948575839458439==",
        "--------------------------957392840192837465018273",
    ] {
        let long = "Q9vTr3LmW5xKd0PyB7nHc2A-".repeat(8);
        let (read, body) = (Boundary::of(&kind(boundary)).unwrap(), body(&format!("Bearer {long}"), boundary));
        let found = read.spans(body.as_bytes(), Some("k"), long.as_bytes());
        assert_eq!(found.len(), 1, "{boundary}");
        assert!(!read.may_fall_on(body.as_bytes(), &found), "{boundary}");
    }
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
