//! The reader of form data against readers that are lenient in other ways: what it gives out as a field's is that field's to
//! each of them.

use carboy_egress::fuzzing;

/// The field that is looked for, and the text in it.
const NAME: &str = "k";
const TEXT: &[u8] = b"fz-Q7vTr3L";

/// The first line is the `Content-Type`, the rest the body.
pub fn form_data(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return };
    let (Ok(kind), body) = (std::str::from_utf8(&bytes[..end]), &bytes[end + 1..]) else { return };
    let found = fuzzing::form_data(kind, body, NAME, TEXT);
    if found.is_empty() {
        return;
    }
    assert!(found.iter().all(|at| &body[at.clone()] == TEXT));
    assert!(found.windows(2).all(|two| two[0].end <= two[1].start));
    let boundary = boundary_of(kind);
    for at in &found {
        for line_end in ["\r\n", "\n", ""] {
            let part = part_around(body, at.start, format!("{line_end}--{boundary}").as_bytes());
            is_the_field(part.0, part.1);
        }
    }
    // With another text in its places, which no boundary has, it has the same fields.
    if !body.contains(&0xff) {
        let (mut other, mut from) = (Vec::new(), 0);
        for at in &found {
            other.extend_from_slice(&body[from..at.start]);
            other.push(0xff);
            from = at.end;
        }
        other.extend_from_slice(&body[from..]);
        assert_eq!(fuzzing::form_data(kind, &other, NAME, b"\xff").len(), found.len());
    }
}

/// The text behind the last `boundary=`, in any case, without quotes.
fn boundary_of(kind: &str) -> String {
    let at = kind.to_ascii_lowercase().rfind("boundary=").expect("it was found") + "boundary=".len();
    let value = kind[at..].split(';').next().unwrap_or_default().trim();
    value.trim_matches('"').to_owned()
}

/// What stands between the delimiters around this place, and where in it the place is.
fn part_around<'a>(body: &'a [u8], at: usize, delimiter: &[u8]) -> (&'a [u8], usize) {
    let found = |text: &[u8]| text.windows(delimiter.len()).rposition(|window| window == delimiter);
    let from = found(&body[..at]).map_or(0, |from| from + delimiter.len());
    let to = body[at..].windows(delimiter.len()).position(|window| window == delimiter).expect("it ends");
    (&body[from..at + to], at - from)
}

/// Line by line, of whatever end, up to the first one that is empty.
fn is_the_field(part: &[u8], at: usize) {
    let (mut heads, mut from) = (Vec::new(), 0);
    loop {
        let line = part[from..].split(|b| *b == b'\n').next().expect("one at least");
        from += line.len() + 1;
        match line.trim_ascii() {
            [] if from > 2 => break,
            line => heads.push(String::from_utf8_lossy(line).to_ascii_lowercase()),
        }
        assert!(from < part.len(), "a head has an end");
    }
    assert!(from <= at, "it is behind the head");
    let fields = || heads.iter().filter_map(|line| line.split_once(':'));
    let named: Vec<_> = fields().filter(|(name, _)| *name == "content-disposition").collect();
    let [(_, disposition)] = named[..] else { panic!("{heads:?}") };
    let plain: String = disposition.chars().filter(|c| !c.is_ascii_whitespace() && *c != '"').collect();
    assert_eq!(plain, "form-data;name=k");
    for (name, value) in fields() {
        let value = value.trim();
        match name {
            "content-type" => assert!(value.starts_with("text/plain"), "{value}"),
            "content-transfer-encoding" => assert!(["7bit", "8bit", "binary"].contains(&value), "{value}"),
            _ => {}
        }
    }
}
