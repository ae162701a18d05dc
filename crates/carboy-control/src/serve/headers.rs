//! What every answer of the chat service carries, whatever it says: the page's walls (G47).
//!
//! ```text
//!  any answer (page, file, JSON, stream, error, 404) ─▶ Walls::put ─▶ the same fields, and the route's own over them
//! ```
//!
//! *Must never* let a script, a style or a frame of somebody else's in: the page needs none, so the policy allows none.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response};

/// What a page of ours may load: its own files. Trusted Types make `innerHTML` and its kin throw.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'; \
                      frame-ancestors ";
/// No device, no sensor, no payment.
const PERMISSIONS: &str = "accelerometer=(), autoplay=(), camera=(), display-capture=(), encrypted-media=(), fullscreen=(), \
                           geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), \
                           publickey-credentials-get=(), usb=(), xr-spatial-tracking=()";
/// A year; said over https alone.
const TRANSPORT: &str = "max-age=31536000";

/// How a site may hold our answers.
#[derive(Clone, Debug)]
pub(super) struct Walls {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Walls {
    /// `ancestors` are origins that may frame the page; they were checked where the file was read, and are checked again.
    pub fn new(ancestors: &[String]) -> Walls {
        let named = ancestors.iter().filter(|origin| is_origin(origin)).map(String::as_str);
        let named: Vec<&str> = named.collect();
        let framing = if named.is_empty() { "'none'".to_owned() } else { named.join(" ") };
        let mut fields = vec![
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS)),
            (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
            (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        if let Ok(policy) = HeaderValue::from_str(&format!("{POLICY}{framing}")) {
            fields.push((header::CONTENT_SECURITY_POLICY, policy));
        }
        if named.is_empty() {
            // It knows no list of sites: where some may frame the page, the policy above says which.
            fields.push((header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")));
        }
        Walls { fields }
    }

    /// Puts them on; a field that the route has set itself stays.
    pub fn put<B>(&self, answer: &mut Response<B>, https: bool) {
        let headers = answer.headers_mut();
        for (name, value) in &self.fields {
            set(headers, name, value);
        }
        if https {
            set(headers, &header::STRICT_TRANSPORT_SECURITY, &HeaderValue::from_static(TRANSPORT));
        }
    }

    /// The same as lines, for answers that are written by hand.
    pub fn lines(&self) -> String {
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()))
        };
        self.fields.iter().map(line).collect()
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name.clone(), value.clone());
    }
}

/// `https://shop.example`, `http://localhost:3000`: scheme, host, port, and nothing that could end the policy's list.
pub(super) fn is_origin(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '*');
    !rest.is_empty() && rest.len() <= 255 && rest.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(ancestors: &[&str]) -> HeaderMap {
        let mut answer = Response::new(());
        let ancestors: Vec<String> = ancestors.iter().map(|&a| a.to_owned()).collect();
        Walls::new(&ancestors).put(&mut answer, true);
        answer.headers().clone()
    }

    #[test]
    fn g47_without_a_list_nobody_frames_the_page() {
        let fields = fields(&[]);
        assert!(fields["content-security-policy"].to_str().unwrap().ends_with("frame-ancestors 'none'"));
        assert_eq!(fields["x-frame-options"], "DENY");
        assert_eq!(fields["strict-transport-security"], TRANSPORT);
    }

    #[test]
    fn g90_listed_origins_frame_it_and_a_word_that_would_widen_the_policy_is_left_out() {
        let fields = fields(&["https://shop.example", "https://a.example; script-src *", "'self'", "*"]);
        let policy = fields["content-security-policy"].to_str().unwrap();
        assert!(policy.ends_with("frame-ancestors https://shop.example"), "{policy}");
        assert!(!fields.contains_key("x-frame-options"));
    }

    #[test]
    fn g48_a_route_may_say_it_otherwise_for_itself() {
        let mut answer = Response::new(());
        answer.headers_mut().insert("content-security-policy", HeaderValue::from_static("default-src 'none'"));
        Walls::new(&[]).put(&mut answer, false);
        assert_eq!(answer.headers()["content-security-policy"], "default-src 'none'");
        assert!(!answer.headers().contains_key("strict-transport-security"));
    }
}
