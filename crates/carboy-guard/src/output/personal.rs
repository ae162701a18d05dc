//! Check digits and ranges of personal data: what tells a card from an order number.
//!
//! Names and postal addresses are not looked for: no rule here would earn it.

use std::net::{Ipv4Addr, Ipv6Addr};

fn word(byte: Option<u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Part of a longer id, like `A-555-123-4567`.
fn joined(byte: Option<u8>) -> bool {
    word(byte) || matches!(byte, Some(b'-' | b'#' | b'/'))
}

fn digits(text: &[u8]) -> Vec<u8> {
    text.iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0').collect()
}

/// A payment card (ISO/IEC 7812): 13 to 19 digits, a network's first digits, Luhn. More digits may stand behind it.
pub(super) fn card(text: &[u8], before: Option<u8>, behind: Option<u8>) -> Option<usize> {
    if joined(before) {
        return None;
    }
    (13..=text.len()).rev().find(|&len| {
        let next = text.get(len).copied().or(if len == text.len() { behind } else { None });
        if !text[len - 1].is_ascii_digit() || word(next) {
            return false;
        }
        let digits = digits(&text[..len]);
        (13..=19).contains(&digits.len()) && network(&digits) && luhn(&digits)
    })
}

fn network(digits: &[u8]) -> bool {
    let first = |n: usize| digits[..n].iter().fold(0u32, |all, d| all * 10 + u32::from(*d));
    match digits.len() {
        13 | 19 => first(1) == 4 || first(1) == 6 || first(2) == 50 || (56..=58).contains(&first(2)),
        14 => matches!(first(2), 36 | 38 | 39) || (300..=305).contains(&first(3)),
        15 => matches!(first(2), 34 | 37) || matches!(first(4), 2131 | 1800),
        _ => (4..=6).contains(&first(1)) || (2221..=2720).contains(&first(4)) || first(2) == 35,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Lengths of IBANs by country (ISO 13616 registry).
const IBAN_LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 \
    EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 \
    LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 \
    SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20";

/// An IBAN: its country's length, remainder 1 modulo 97. Words may stand behind it.
pub(super) fn iban(text: &[u8], before: Option<u8>, behind: Option<u8>) -> Option<usize> {
    if word(before) {
        return None;
    }
    let country = std::str::from_utf8(text.get(..2)?).ok()?.to_ascii_uppercase();
    let listed = IBAN_LENGTHS.split_ascii_whitespace().find(|entry| entry.starts_with(&country))?;
    let length: usize = listed[2..].parse().ok()?;
    let (mut end, mut seen) = (0, 0);
    while seen < length {
        seen += usize::from(text.get(end)?.is_ascii_alphanumeric());
        end += 1;
    }
    if word(text.get(end).copied().or(if end == text.len() { behind } else { None })) {
        return None;
    }
    let plain: Vec<u8> = text[..end].iter().copied().filter(u8::is_ascii_alphanumeric).collect();
    let moved = plain[4..].iter().chain(&plain[..4]);
    let remainder = moved.fold(0u32, |sum, b| match b.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => (sum * 10 + u32::from(digit - b'0')) % 97,
        letter => (sum * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    (remainder == 1).then_some(end)
}

/// A social security number of the United States that can have been given out.
pub(super) fn ssn(text: &[u8], before: Option<u8>, behind: Option<u8>) -> Option<usize> {
    if joined(before) || word(behind) || text[3] != text[6] {
        return None;
    }
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    (area != b"000" && area != b"666" && area[0] != b'9' && group != b"00" && serial != b"0000").then_some(text.len())
}

/// A telephone number: with `+` by E.164, without by the North American plan and written in groups.
pub(super) fn phone(text: &[u8], before: Option<u8>, behind: Option<u8>) -> Option<usize> {
    // What begins with a sign begins there, whatever stands before: also behind something that was overwritten.
    let apart = match text[0] {
        b'+' | b'(' => before != Some(b'+'),
        _ => !joined(before) && !matches!(before, Some(b'.' | b'+')),
    };
    let digits = digits(text);
    if text[0] == b'+' {
        return (apart && (8..=15).contains(&digits.len())).then_some(text.len());
    }
    if !apart || word(behind) {
        return None;
    }
    let national = if digits.len() == 11 { &digits[1..] } else { &digits[..] };
    (national.len() == 10 && national[0] > 1 && national[3] > 1).then_some(text.len())
}

/// Four numbers to 255, and not one of more.
pub(super) fn ipv4(text: &[u8], before: Option<u8>, _: Option<u8>) -> Option<usize> {
    let address = std::str::from_utf8(text).ok()?.parse::<Ipv4Addr>().ok()?;
    (!joined(before) && before != Some(b'.') && !address.is_unspecified()).then_some(text.len())
}

/// An IPv6 address with something in it.
pub(super) fn ipv6(text: &[u8], before: Option<u8>, _: Option<u8>) -> Option<usize> {
    // `std::fade`, `[x]::add`: a path and no address.
    if word(before) || matches!(before, Some(b':' | b']' | b'>')) {
        return None;
    }
    let trimmed = text.strip_suffix(b":").filter(|rest| !rest.ends_with(b":")).unwrap_or(text);
    std::str::from_utf8(trimmed).ok()?.parse::<Ipv6Addr>().ok()?;
    Some(trimmed.len())
}
