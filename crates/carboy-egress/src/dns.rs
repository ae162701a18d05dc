//! The bottle's name server: pool addresses for allowed names, a refusal for everything else.
//!
//! *Must never* pass a query, or a label of one, to anybody: a name is looked up outside only when a routed request
//! is about to be dialled (B28). Answers are made from the routes and the pool alone.

use carboy_core::finding::{Detector, Location};
use carboy_core::host::{DnsName, Host};
use carboy_core::ids::RefusalId;
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::Detectors;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::gateway::Learning;
use crate::names::{NamePool, NoAddress};
use crate::outbound::unruled;

/// Seconds; short, so that a reload of the routes is felt soon.
const TTL_SECONDS: u32 = 30;
/// The largest UDP payload that is announced (the size agreed on DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// RFC 8914: the option, and "Blocked" in it.
const EXTENDED_ERROR_OPTION: u16 = 15;
const EXTENDED_ERROR_BLOCKED: u16 = 15;
/// Every query has at least a header.
const HEADER_BYTES: usize = 12;

/// What is sent back, and what is written down.
pub(crate) struct Reply {
    /// `None`: this was no query, so nothing is sent.
    message: Option<Box<Message>>,
    /// Does the query's end understand extended errors?
    extended: bool,
    /// The refusal, when it is one.
    pub(crate) refusal: Option<Refusal>,
}

impl Reply {
    /// What is sent back. An extended error names the refusal's id, which is known when it is in the log.
    pub(crate) fn bytes(&self, id: Option<&RefusalId>) -> Option<Vec<u8>> {
        let mut message = self.message.clone()?;
        if self.extended {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_version(0);
            if let Some(refusal) = &self.refusal {
                let mut option = EXTENDED_ERROR_BLOCKED.to_be_bytes().to_vec();
                let mut text = format!("carboy: {}", refusal.denial.reason.code());
                if let Some(id) = id {
                    text.push_str(&format!("; carboy explain {id}"));
                }
                option.extend_from_slice(text.as_bytes());
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR_OPTION, option));
            }
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }
}

/// A refused query.
#[derive(Clone)]
pub(crate) struct Refusal {
    pub(crate) denial: Denial,
    /// The name with secrets taken out, or a placeholder.
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Rules and fingerprints of what was found in the name.
    pub(crate) findings: Vec<carboy_core::finding::Finding>,
}

/// Answers one query.
pub(crate) fn answer(
    query: &[u8],
    routes: &RouteSet,
    pool: &mut NamePool,
    detectors: &Detectors,
    learning: Learning,
) -> Reply {
    let message = match Message::from_vec(query) {
        Ok(message) => message,
        Err(_) => return malformed(query),
    };
    if message.metadata.message_type != MessageType::Query {
        // An answer to a question that nobody asked; replying to it could start a loop.
        let refusal = Some(refused("(not a query)", "", Reason::DnsQueryRefused));
        return Reply { message: None, extended: false, refusal };
    }
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let [question] = &message.queries[..] else {
        return send(
            reply,
            ResponseCode::FormErr,
            &message,
            Some(refused("(not one question)", "", Reason::DnsQueryRefused)),
        );
    };
    // The question goes back byte for byte: resolvers that mix the case (0x20) compare it.
    reply.add_query(question.clone());
    let (name, kind) = (question.name.to_ascii(), question.query_type.to_string());
    if message.metadata.op_code != OpCode::Query || question.query_class != DNSClass::IN {
        let refusal = refused(&shown(&name, detectors), &kind, Reason::DnsQueryRefused);
        return send(reply, ResponseCode::NotImp, &message, Some(refusal));
    }
    match decide(&name, &kind, Names { routes, pool, learning }, detectors) {
        Ok(addresses) => {
            // For any other type nothing exists; above all no HTTPS record, whose ECH key would hide the name (B17).
            let data = if question.query_type == RecordType::A {
                Some(RData::A(A(addresses.v4)))
            } else if question.query_type == RecordType::AAAA {
                Some(RData::AAAA(AAAA(addresses.v6)))
            } else {
                None
            };
            if let Some(data) = data {
                reply.add_answer(Record::from_rdata(question.name.clone(), TTL_SECONDS, data));
            }
            send(reply, ResponseCode::NoError, &message, None)
        }
        Err(refusal) => send(reply, ResponseCode::NXDomain, &message, Some(*refusal)),
    }
}

/// What names are answered by.
struct Names<'n> {
    routes: &'n RouteSet,
    pool: &'n mut NamePool,
    learning: Learning,
}

fn decide(
    name: &str,
    kind: &str,
    names: Names<'_>,
    detectors: &Detectors,
) -> Result<crate::names::PoolAddress, Box<Refusal>> {
    let sought = [Detector::Placeholders, Detector::KnownSecrets];
    let findings = detectors.scan_text(name.as_bytes(), &sought, Location::DnsName);
    if let Some(worst) = findings.first() {
        let denial = Denial { detail: format!("in a name asked of DNS, type {kind}"), ..unruled(worst) };
        let name = shown(name, detectors);
        return Err(Box::new(Refusal { denial, name, kind: kind.to_owned(), findings }));
    }
    let refusal = |reason| Box::new(refused(&shown(name, detectors), kind, reason));
    let Ok(Host::Name(parsed)) = Host::parse(name) else { return Err(refusal(Reason::NameNotAllowed)) };
    let parsed: DnsName = parsed;
    names.pool.address(&parsed, names.routes, names.learning).map_err(|why| match why {
        NoAddress::NotAllowed => refusal(Reason::NameNotAllowed),
        NoAddress::PoolFull => refusal(Reason::LimitReached),
        NoAddress::ZoneSpent(why) => {
            let mut refusal = refusal(Reason::NameBudget);
            refusal.denial.detail = why;
            refusal
        }
    })
}

fn refused(name: &str, kind: &str, reason: Reason) -> Refusal {
    let detail = if kind.is_empty() { name.to_owned() } else { format!("{name} type {kind}") };
    Refusal { denial: Denial::new(reason, detail), name: name.to_owned(), kind: kind.to_owned(), findings: Vec::new() }
}

/// A name for the log: secrets out, short.
fn shown(name: &str, detectors: &Detectors) -> String {
    const SHOWN_CHARS_MAX: usize = 128;
    let all = [Detector::Placeholders, Detector::KnownSecrets, Detector::TokenPatterns];
    let name = name.strip_suffix('.').unwrap_or(name);
    let (clean, _) = detectors.redact(name.as_bytes(), &all, Location::DnsName);
    let clean = String::from_utf8_lossy(&clean);
    match clean.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean.into_owned(),
    }
}

fn send(mut reply: Message, code: ResponseCode, query: &Message, refusal: Option<Refusal>) -> Reply {
    reply.metadata.response_code = code;
    Reply { message: Some(Box::new(reply)), extended: query.edns.is_some(), refusal }
}

/// A packet that does not parse: FORMERR when at least its header is a query's.
fn malformed(query: &[u8]) -> Reply {
    let refusal = Some(refused("(malformed)", "", Reason::DnsQueryRefused));
    let is_query = query.len() >= HEADER_BYTES && query[2] & 0x80 == 0;
    let message = is_query.then(|| {
        let id = u16::from_be_bytes([query[0], query[1]]);
        Box::new(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
    });
    Reply { message, extended: false, refusal }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;

    use super::*;
    use crate::limits::GatewayLimits;
    use crate::testing::{SECRET, detectors, routes};

    fn pool(wildcard_names_max: usize) -> NamePool {
        NamePool::new(&GatewayLimits { names_max: 16, wildcard_names_max, ..GatewayLimits::default() })
    }

    /// A query as a stub resolver sends it.
    fn query_bytes(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.set_edns(Edns::new());
        message.to_vec().unwrap()
    }

    fn ask(bytes: &[u8]) -> (Option<Message>, Option<Refusal>) {
        let routes = routes(&["api.example", "*.w.example"]);
        let reply = answer(bytes, &routes, &mut pool(4), &detectors(), Learning::Off);
        let id = RefusalId::from_bits(1);
        (reply.bytes(Some(&id)).map(|bytes| Message::from_vec(&bytes).unwrap()), reply.refusal)
    }

    #[test]
    fn an_allowed_name_gets_a_pool_address_and_its_own_spelling_back() {
        let (reply, refusal) = ask(&query_bytes("ApI.eXample.", RecordType::A));
        let reply = reply.unwrap();
        assert!(refusal.is_none());
        assert_eq!(reply.queries[0].name.to_ascii(), "ApI.eXample.");
        assert_eq!(reply.answers[0].data, RData::A(A("198.18.0.1".parse().unwrap())));
        let (reply, _) = ask(&query_bytes("x.w.example.", RecordType::AAAA));
        assert_eq!(reply.unwrap().answers[0].data, RData::AAAA(AAAA("fdca:b0e0:ca4b:1::1".parse().unwrap())));
    }

    #[test]
    fn no_https_record_and_no_other_type_is_ever_answered() {
        // B17
        for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::MX] {
            let (reply, refusal) = ask(&query_bytes("api.example.", kind));
            let reply = reply.unwrap();
            assert!(refusal.is_none() && reply.answers.is_empty());
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        }
    }

    #[test]
    fn any_other_name_is_nxdomain_with_the_reason_in_it() {
        // B28
        for kind in [RecordType::A, RecordType::TXT, RecordType::NULL, RecordType::ANY] {
            let (reply, refusal) = ask(&query_bytes("payload.evil.example.", kind));
            let reply = reply.unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(refusal.unwrap().denial.reason, Reason::NameNotAllowed);
            let option = reply.edns.unwrap().option(EXTENDED_ERROR_OPTION.into()).cloned().unwrap();
            let text = b"\x00\x0fcarboy: name_not_allowed; carboy explain x-000001";
            assert_eq!(option, EdnsOption::Unknown(15, text.to_vec()));
        }
    }

    #[test]
    fn a_secret_in_a_label_is_refused_even_below_an_allowed_zone_and_not_written_down() {
        // B28, B30
        let (reply, refusal) = ask(&query_bytes(&format!("{SECRET}.w.example."), RecordType::A));
        let refusal = refusal.expect("refused");
        assert_eq!(reply.unwrap().metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(refusal.denial.reason, Reason::SecretKnown);
        assert!(!refusal.name.contains(SECRET) && !refusal.denial.detail.contains(SECRET));
    }

    #[test]
    fn b42_a_placeholder_in_a_label_is_refused_for_what_it_is_and_not_written_down() {
        use carboy_core::ids::SecretName;
        let fake = "aZ8vTr3LmW5xKd0PyB7q";
        let detectors = Detectors::builder([7; 32]).placeholder(&SecretName::parse("CANARY").unwrap(), fake).build();
        let detectors = detectors.unwrap();
        let split = format!("{}.{}", &fake[..9], &fake[9..]);
        let hex: String = fake.bytes().map(|b| format!("{b:02x}")).collect();
        for label in [fake.to_owned(), split, hex] {
            let query = query_bytes(&format!("{label}.w.example."), RecordType::A);
            let reply = answer(&query, &routes(&["*.w.example"]), &mut pool(4), &detectors, Learning::Off);
            let refusal = reply.refusal.expect("refused");
            assert_eq!(refusal.denial.reason, Reason::PlaceholderMisplaced, "{label}");
            assert!(!refusal.name.contains(fake) && !refusal.denial.detail.contains(fake));
        }
    }

    #[test]
    fn a_run_that_learns_gives_every_name_an_address_but_none_with_a_secret() {
        let ask = |name: &str, pool: &mut NamePool| {
            let query = query_bytes(name, RecordType::A);
            answer(&query, &routes(&["api.example"]), pool, &detectors(), Learning::On).refusal.map(|r| r.denial.reason)
        };
        let mut pool = pool(1);
        assert_eq!(ask("new.example.", &mut pool), None);
        assert_eq!(ask(&format!("{SECRET}.example."), &mut pool), Some(Reason::SecretKnown));
        // The bottle chooses these names: they are bounded as those of a wildcard are, and the routes' own keep their place.
        assert_eq!(ask("more.example.", &mut pool), Some(Reason::LimitReached));
        assert_eq!(ask("api.example.", &mut pool), None);
    }

    #[test]
    fn what_is_no_plain_question_is_refused() {
        let mut two = Message::from_vec(&query_bytes("api.example.", RecordType::A)).unwrap();
        two.add_query(two.queries[0].clone());
        let (reply, refusal) = ask(&two.to_vec().unwrap());
        assert_eq!(reply.unwrap().metadata.response_code, ResponseCode::FormErr);
        assert_eq!(refusal.unwrap().denial.reason, Reason::DnsQueryRefused);
        let mut chaos = Message::from_vec(&query_bytes("api.example.", RecordType::A)).unwrap();
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(ask(&chaos.to_vec().unwrap()).0.unwrap().metadata.response_code, ResponseCode::NotImp);
        let (reply, refusal) = ask(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xff");
        assert_eq!(reply.unwrap().metadata.response_code, ResponseCode::FormErr);
        assert!(refusal.is_some());
        let (reply, refusal) = ask(b"x");
        assert!(reply.is_none() && refusal.is_some());
    }
}
