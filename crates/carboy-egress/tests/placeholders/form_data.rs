//! Placeholders in fields of form data (RFC 7578).

use super::*;

#[tokio::test]
async fn b42_in_form_data_the_placeholder_becomes_real_and_every_other_byte_stays() {
    let pair = Pair::plain(&[body("token")]).await;
    let mut client = pair.client().await;
    // A file of all octets, which is no text, and a line that only looks like a boundary.
    let file: String = (0..=255).map(char::from).collect::<String>() + "\r\n--not-the-boundary\r\n";
    let form = |value: &str| {
        multipart(&[
            ("name=\"channel\"", "general"),
            ("name=\"file\"; filename=\"a b.bin\"\r\nContent-Type: application/octet-stream", &file),
            ("name=\"token\"", value),
            ("name=\"token\"\r\nContent-Type: text/plain; charset=utf-8", &format!("Bearer {value}\n")),
        ])
    };
    let (asked, sent) = (form(&pair.fake), form(SECRET));
    for coding in ["", "gzip", "stored"] {
        let (bytes, mut fields) = match coding {
            "gzip" => (gzip(&asked), vec![("content-encoding", "gzip")]),
            "stored" => (stored(&asked), vec![("content-encoding", "gzip")]),
            _ => (asked.clone(), vec![]),
        };
        fields.push(("content-type", FORM_DATA));
        let got = send(&mut client, Method::POST, "/upload", &fields, bytes).await;
        assert_eq!(got.status, StatusCode::OK, "{}", got.text());
        let received = pair.last();
        assert_eq!(received.body, sent);
        assert_eq!(received.headers["content-length"].to_str().unwrap(), sent.len().to_string());
        assert_eq!(received.headers["content-type"], FORM_DATA);
        assert!(!received.headers.contains_key("content-encoding"));
        assert!(got.text().contains(&pair.fake) && !got.text().contains(SECRET));
    }
    assert_eq!(pair.bench.log.refusals(), [""; 0]);
}

#[tokio::test]
async fn b42_in_form_data_another_place_and_an_unclear_body_are_refused() {
    let pair = Pair::plain(&[body("token")]).await;
    let fake = pair.fake.clone();
    let good = String::from_utf8(multipart(&[("name=\"token\"", &fake)])).unwrap();
    let of = |disposition: &str, value: &str| String::from_utf8(multipart(&[(disposition, value)])).unwrap();
    let packed = |text: &str| STANDARD.encode(text);
    let bodies = [
        of("name=\"note\"", &fake),
        of("name=\"token\"; filename=\"a.txt\"", &fake),
        of(&format!("name=\"token\"; x=\"{fake}\""), "value"),
        of(&format!("name=\"token\"\r\nX-Note: {fake}"), "value"),
        of(&format!("name=\"{fake}\""), "value"),
        of("name=\"token\"\r\nContent-Transfer-Encoding: base64", &packed(&fake)),
        of("name=\"token\"\r\nContent-Type: multipart/mixed; boundary=i", &format!("--i\r\n\r\n{fake}\r\n--i--")),
        of("name=\"token\"; name=\"token\"", &fake),
        of("name=\"token\"; filename=a; filename=b", &fake),
        format!("{fake}\r\n{good}"),
        format!("{good}{fake}"),
        good.replace("\r\n", "\n"),
        good.trim_end().trim_end_matches('-').to_owned(),
        format!("{good}{good}"),
    ];
    let unclear = [
        "multipart/form-data".to_owned(),
        format!("{FORM_DATA}; boundary=other"),
        format!("{FORM_DATA}, text/plain"),
        FORM_DATA.replace("form-data", "mixed"),
    ];
    let tried = bodies.iter().map(|body| (FORM_DATA, body)).chain(unclear.iter().map(|kind| (kind.as_str(), &good)));
    let mut count = 0;
    for (kind, body) in tried {
        let mut client = pair.client().await;
        let got = send(&mut client, Method::POST, "/upload", &[("content-type", kind)], body.clone()).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{kind}\n{body}");
        count += 1;
    }
    // A boundary that would be found in the real value, were it the right one.
    for guess in [&SECRET[..9], &fake[..9], "sk-test-Z"] {
        let body = good.replace(BOUNDARY, guess);
        let kind = format!("multipart/form-data; boundary={guess}");
        let got = send(&mut pair.client().await, Method::POST, "/upload", &[("content-type", &kind)], body).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{guess}");
        count += 1;
    }
    assert_eq!((pair.bench.origin.received().len(), pair.bench.log.refusals().len()), (0, count));
    // Without a placeholder none of it is the gateway's business.
    for body in bodies {
        let body = body.replace(&fake, "nothing").replace(&packed(&fake), "");
        let got =
            send(&mut pair.client().await, Method::POST, "/u", &[("content-type", FORM_DATA)], body.clone()).await;
        assert_eq!((got.status, pair.last().body), (StatusCode::OK, body.into_bytes()));
    }
}

#[tokio::test]
async fn b42_what_is_overwritten_beside_a_placeholder_moves_it_to_no_other_place() {
    let redacting = DlpPolicy { outbound_on_match: OnMatch::Redact, ..DlpPolicy::default() };
    let bound = Route { dlp: redacting, ..bound(&[body("token")]) };
    let pair = Pair::start(Kind::Plain, vec![bound]).await;
    let fake = pair.fake.clone();
    // What looks like a private key, and goes on over what tells one field from the next.
    let begin = "-----BEGIN PRIVATE KEY-----\\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAq7BFUpkGp3pLQmlQ";
    let end = "\\n-----END PRIVATE KEY-----\\n";
    let json = |note: &str, token: &str| format!("{{\"note\":\"{note}\",\"token\":\"{token}\"}}").into_bytes();
    let form = |note: &str, token: &str| format!("note={note}&token={token}").into_bytes();
    let parts = |note: &str, token: &str| multipart(&[("name=\"note\"", note), ("name=\"token\"", token)]);
    let (forms, jsons) = ("application/x-www-form-urlencoded", "application/json");
    for (kind, body) in [(FORM_DATA, parts(begin, &fake)), (jsons, json(begin, &format!("{end}{fake}")))] {
        let got = send(&mut pair.client().await, Method::POST, "/", &[("content-type", kind)], body).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{kind}");
    }
    assert_eq!(pair.bench.origin.received().len(), 0);
    // One that ends where its field does is overwritten, and the placeholder becomes real in its own.
    let whole = format!("{begin}{}", end.trim_end_matches("\\n"));
    for (kind, body, written) in [
        (FORM_DATA, parts(&format!("{whole};"), &fake), parts("*;", SECRET)),
        (jsons, json(&format!("{whole};"), &fake), json("*;", SECRET)),
        (forms, form(begin, &fake), form("*", SECRET)),
    ] {
        let got = send(&mut pair.client().await, Method::POST, "/", &[("content-type", kind)], body).await;
        assert_eq!(got.status, StatusCode::OK, "{kind} {}", got.text());
        let mut received = pair.last().body;
        received.dedup_by(|a, b| (*a, *b) == (b'*', b'*'));
        assert_eq!(String::from_utf8(received), String::from_utf8(written));
    }
}

#[tokio::test]
async fn b42_form_data_on_a_metered_route_are_filled_where_they_cost_nothing() {
    let mut model = bound(&[body("token")]);
    model.meter = Some(MeterName::parse("openai").unwrap());
    let pair = Pair::start(Kind::Plain, vec![model]).await;
    let form = |value: &str| multipart(&[("name=\"purpose\"", "batch"), ("name=\"token\"", value)]);
    let fields = [("content-type", FORM_DATA)];
    let got = send(&mut pair.client().await, Method::POST, "/v1/files", &fields, form(&pair.fake)).await;
    assert_eq!((got.status, pair.last().body), (StatusCode::OK, form(SECRET)), "{}", got.text());
    // What costs is JSON, and in JSON under the type of a form nothing is filled.
    let chat = format!(r#"{{"model":"gpt-4o-mini","messages":[],"token":"{}"}}"#, pair.fake);
    for (body, reason) in [(form(&pair.fake), "request_unbounded"), (chat.into_bytes(), REASON)] {
        let got = send(&mut pair.client().await, Method::POST, "/v1/chat/completions", &fields, body).await;
        assert_eq!(got.reason(), reason);
    }
    assert_eq!(pair.bench.origin.received().len(), 1);
}
