//! Bodies that are read as a whole: encoded ones, those of metered requests, and those that may hold a placeholder.
//!
//! *Must never* let a body pass that it could not decode.

use bytes::{Bytes, BytesMut};
use carboy_core::finding::{Finding, Location};
use carboy_core::route::Route;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::{Coding, DecodedMax, Inflate, InflateError, Mode, ScanPlan, StreamScanner};
use http::header::{self, HeaderMap, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::Scan;
use crate::body::{OutBody, Share, no_trailers};
use crate::limits::GatewayLimits;
use crate::placeholder::Lifted;

/// Most room that is made for a body because its head says how long it is; nobody has to send what it announced.
const ROOM_BYTES_MAX: usize = 256 * 1024;

/// In what form a body goes out that was read as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// As it came, unless something in it was overwritten.
    AsSent,
    /// Without its content codings.
    Decoded,
}

/// A body with a content coding, or of a metered request, read as a whole.
pub(super) struct Whole<'a> {
    pub(super) codings: Vec<Coding>,
    pub(super) keep: Keep,
    pub(super) route: &'a Route,
    pub(super) scan: &'a Scan,
    pub(super) limits: &'a GatewayLimits,
}

impl Whole<'_> {
    pub(super) async fn read(self, body: Incoming, headers: &mut HeaderMap) -> Result<OutBody, Denial> {
        let mut share = Share::default();
        let out = if self.codings.is_empty() {
            self.read_plain(body, &mut share).await?
        } else {
            self.read_encoded(body, &mut share, headers).await?
        };
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(out.len()));
        Ok(OutBody::Whole(self.scan.exchange.clone(), Some(out), share))
    }

    /// Reads all of it, takes the route's placeholders out of the decoded text, and scans what is left: that goes on.
    pub(super) async fn read_lifting(
        self,
        body: Incoming,
        headers: &mut HeaderMap,
        lifted: &mut Lifted,
    ) -> Result<OutBody, Denial> {
        let mut share = Share::default();
        let mut sent = BytesMut::new();
        self.collect(body, &mut share, |data| {
            sent.extend_from_slice(&data);
            Ok(())
        })
        .await?;
        // What no decoder yields (names, comments, skipped frames) stays behind with the coding.
        let decoded = if self.codings.is_empty() { sent.to_vec() } else { self.decode(&sent)? };
        share.grow(self.scan.exchange.gateway(), decoded.len()).map_err(|denial| denial.by(&self.route.id))?;
        let marked = lifted.lift_body(headers, decoded);
        let out = self.scan.message(&marked)?;
        if out != marked {
            lifted.stays_in_place(&out).map_err(|denial| denial.by(&self.route.id))?;
        }
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(out.len()));
        Ok(OutBody::Whole(self.scan.exchange.clone(), Some(out), share))
    }

    fn decode(&self, encoded: &[u8]) -> Result<Vec<u8>, Denial> {
        let mut inflate = Inflate::new(&self.codings, DecodedMax(self.limits.whole_body_bytes_max));
        let (mut rest, mut decoded) = (encoded, Vec::new());
        loop {
            let step = inflate.push(rest, &mut decoded).map_err(|error| self.undecodable(error))?;
            rest = &rest[step.consumed..];
            if !step.more {
                break;
            }
        }
        inflate.finish().map_err(|error| self.undecodable(error))?;
        Ok(decoded)
    }

    /// Scans as it reads; what comes out is what goes on, redacted where that was asked for.
    async fn read_plain(&self, body: Incoming, share: &mut Share) -> Result<Bytes, Denial> {
        let mut scanner = self.scan.body_scanner();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut cleared = Vec::with_capacity(announced.min(ROOM_BYTES_MAX));
        self.collect(body, share, |data| {
            scanner.push(&data, &mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))
        })
        .await?;
        scanner.finish(&mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
        self.scan.passed(scanner.take_findings());
        Ok(Bytes::from(cleared))
    }

    async fn read_encoded(&self, body: Incoming, share: &mut Share, headers: &mut HeaderMap) -> Result<Bytes, Denial> {
        let mut encoded = BytesMut::new();
        self.collect(body, share, |data| {
            encoded.extend_from_slice(&data);
            Ok(())
        })
        .await?;
        let encoded = encoded.freeze();
        let in_wrapping = self.scan_wrapping(&encoded)?;
        let (plain, mut findings) = self.decode_and_scan(&encoded)?;
        findings.extend(in_wrapping);
        let redacted = self.scan.passed(findings);
        match plain {
            Some(plain) if redacted || self.keep == Keep::Decoded => {
                headers.remove(header::CONTENT_ENCODING);
                share.grow(self.scan.exchange.gateway(), plain.len())?;
                Ok(Bytes::from(plain))
            }
            Some(_) | None => Ok(encoded),
        }
    }

    async fn collect(
        &self,
        mut body: Incoming,
        share: &mut Share,
        mut take: impl FnMut(Bytes) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let max = self.limits.whole_body_bytes_max.min(self.route.body_bytes_max.unwrap_or(u64::MAX));
        let until = Instant::now() + self.limits.whole_body_time;
        let mut taken = 0;
        loop {
            let next = until.min(Instant::now() + self.limits.body_idle);
            let frame = match timeout_at(next, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(Denial::new(Reason::ProtocolRefused, "the request body broke off")),
                Ok(None) => return Ok(()),
                Err(_) => return Err(Denial::new(Reason::LimitReached, "the request body took too long")),
            };
            no_trailers(frame.trailers_ref())?;
            if let Ok(data) = frame.into_data() {
                taken += data.len() as u64;
                if taken > max {
                    let detail = format!("limit {max} bytes for a body that is read whole");
                    return Err(Denial::new(Reason::BodyTooLarge, detail).by(&self.route.id));
                }
                share.grow(self.scan.exchange.gateway(), data.len()).map_err(|denial| denial.by(&self.route.id))?;
                take(data)?;
            }
        }
    }

    /// Scans the encoded bytes as they are: formats have places (names, comments, skipped frames) that no decoder
    /// yields. Where matches are redacted, the decoded text goes out in place of such a wrapping.
    fn scan_wrapping(&self, encoded: &[u8]) -> Result<Option<Finding>, Denial> {
        let plan = ScanPlan { detectors: self.scan.list.clone(), mode: Mode::Block, location: Location::RequestBody };
        let mut scanner = StreamScanner::shallow(self.scan.detectors.clone(), plan);
        let mut sink = Vec::new();
        for piece in encoded.chunks(carboy_guard::inflate::OUT_PER_CALL_MAX) {
            sink.clear();
            if let Err(stopped) = scanner.push(piece, &mut sink) {
                return self.in_wrapping(*stopped.finding);
            }
        }
        match scanner.finish(&mut sink) {
            Ok(()) => Ok(None),
            Err(stopped) => self.in_wrapping(*stopped.finding),
        }
    }

    fn in_wrapping(&self, finding: Finding) -> Result<Option<Finding>, Denial> {
        match self.scan.mode {
            Mode::Block => Err(self.scan.refusal(finding)),
            Mode::Redact if self.scan.refuses(&finding) => Err(self.scan.refusal(finding)),
            Mode::Redact => Ok(Some(finding)),
        }
    }

    /// Scans the decoded text. Gives it back where it may have to replace the original.
    fn decode_and_scan(&self, encoded: &[u8]) -> Result<(Option<Vec<u8>>, Vec<Finding>), Denial> {
        let keep = self.scan.mode == Mode::Redact || self.keep == Keep::Decoded;
        let mut scanner = self.scan.scanner(self.scan.list.clone(), self.scan.mode);
        let mut inflate = Inflate::new(&self.codings, DecodedMax(self.limits.whole_body_bytes_max));
        let (mut rest, mut decoded, mut cleared) = (encoded, Vec::new(), Vec::new());
        loop {
            decoded.clear();
            let step = inflate.push(rest, &mut decoded).map_err(|error| self.undecodable(error))?;
            rest = &rest[step.consumed..];
            if !keep {
                cleared.clear();
            }
            scanner.push(&decoded, &mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
            if !step.more {
                break;
            }
        }
        inflate.finish().map_err(|error| self.undecodable(error))?;
        scanner.finish(&mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
        Ok((keep.then_some(cleared), scanner.take_findings()))
    }

    fn undecodable(&self, error: InflateError) -> Denial {
        let reason = match error {
            InflateError::TooLarge { .. } => Reason::BodyTooLarge,
            InflateError::Corrupt { .. } | InflateError::TrailingData { .. } | InflateError::Truncated { .. } => {
                Reason::BodyUndecodable
            }
        };
        Denial::new(reason, error.to_string()).by(&self.route.id)
    }
}
