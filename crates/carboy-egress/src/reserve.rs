//! Step 4: what a request may cost at most is held before a byte of it leaves.
//!
//! ```text
//! Scanned ─▶ classify ─┬─ costs nothing ────────────────────────────▶ Reserved (a permit that says so)
//!                      ├─ cannot be metered ─▶ refused
//!                      └─ metered ─▶ Demand ─▶ Ask ─▶ Ledger::admit ─▶ Reserved (a hold)
//!                                                ▲        │ CountFirst
//!                                                └─ count ◀┘
//! Credentialed ─▶ connection ─▶ Ledger::dispatch (durable) ─▶ the output's bound written into the request ─▶ Dispatched
//! ```
//!
//! *Must never* let a request go that costs and is not held, send it before the hold is durable, or write a bound into it
//! that is above what is held.

mod count;
mod frame;

use std::sync::Arc;

use bytes::Bytes;
use carboy_core::budget::{Ask, Caching, Counted};
use carboy_core::ids::MeterName;
use carboy_core::route::{HostPermit, RoutePermit, RouteSet};
use carboy_core::verdict::{Denial, Reason};
use carboy_wire::demand::{AskUsage, Beyond, Demand};
use carboy_wire::endpoint::{self, Endpoint};
use carboy_wire::estimate::{context_limit, input_bound, output_limit};
use carboy_wire::format::WireFormat;
use http::header::{self, HeaderValue};
use http::{Request, request};

use crate::body::OutBody;
use crate::connection::Flow;
use crate::gateway::Gateway;
use crate::hold::{Hold, Streams, Unseen, UsageAskedFor, Wire, new_id};
use crate::inject::{Credentialed, Rest};
use crate::outbound::Scanned;
use crate::upstream::{Dialer, Line, Pool};
use crate::websocket::Asked;

/// OpenAI's Responses take no smaller bound on their output.
const RESPONSES_OUTPUT_MIN: u64 = 16;

/// What the provider may count differently of an earlier response: one token in a hundred.
const EARLIER_MARGIN_PART: u64 = 100;
/// Other models that Anthropic asks at most, where the first one refuses.
const FALLBACKS_MAX: u64 = 3;

/// What a request is to the meter; known before its body is read.
pub(crate) enum Use {
    /// Nobody counts its tokens.
    Unmetered(Unmetered),
    /// A model answers it.
    Metered(Target),
}

/// The permit of a request that costs no tokens.
pub(crate) struct Unmetered(#[expect(dead_code, reason = "a permit says what it is for")] Costless);

/// Why it costs none.
enum Costless {
    /// It is no business of a model's provider.
    NoModel,
    /// No model runs for it.
    NothingRuns,
    /// The provider counts, for nothing.
    Count,
    /// It opens a WebSocket, whose messages are paid for one by one.
    Opening,
}

/// What is metered, and how it is written.
pub(crate) struct Target {
    meter: MeterName,
    format: WireFormat,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It reads and writes.
    Generate,
    /// It only reads.
    Embed,
}

/// Looks a request up in the table of endpoints.
pub(crate) fn classify(
    head: &request::Parts,
    permit: &HostPermit,
    route: &RoutePermit,
    socket: Option<&Asked>,
) -> Result<Use, Denial> {
    let meter = route.route().meter.as_ref();
    let refused = |why: &str| Err(Denial::new(Reason::Unmeterable, why).by(&route.route().id));
    // What a WebSocket is opened for is asked for in its messages.
    // One that names another method beside its line is whatever that may be.
    let method = if socket.is_some() || route.overrides() { "POST" } else { head.method.as_str() };
    let found = endpoint::of(meter, permit.host(), method, route.path());
    if found.is_some() && route.overrides() {
        // Google's servers go by such a field: what looks like a look-up would be answered by a model.
        return refused("it names another method or path beside its line");
    }
    if found.is_some() && names_a_parameter(head, &["$httpheaders"]) {
        // Fields by the same servers: what is left out of the answer, and another method, stand in those as well.
        return refused("it has header fields in its query; send them as fields and leave `$httpHeaders` out");
    }
    let metered = |kind, format| {
        if format == WireFormat::Gemini && asks_for_a_part(head) {
            return refused("it asks for a part of the answer, and the cost may not be in it; leave `fields` out");
        }
        let meter = endpoint::meter_of(meter, permit.host(), format);
        Ok(Use::Metered(Target { meter, format, kind }))
    };
    match found {
        None => Ok(Use::Unmetered(Unmetered(Costless::NoModel))),
        Some(Endpoint::Free) => Ok(Use::Unmetered(Unmetered(Costless::NothingRuns))),
        Some(Endpoint::Count(_)) => Ok(Use::Unmetered(Unmetered(Costless::Count))),
        Some(Endpoint::Generate(format)) => metered(Kind::Generate, format),
        Some(Endpoint::Embed(format)) => metered(Kind::Embed, format),
        Some(Endpoint::Refused { why }) => refused(why),
    }
}

/// Google's servers leave out of an answer what the request does not name.
fn asks_for_a_part(head: &request::Parts) -> bool {
    names_a_parameter(head, &["fields", "$fields"]) || head.headers.contains_key("x-goog-fieldmask")
}

/// Does the query have one of these, given in lower case?
fn names_a_parameter(head: &request::Parts, names: &[&str]) -> bool {
    let query = head.uri.query().unwrap_or_default();
    let mut named = query.split('&').filter_map(|pair| percent_decoded(pair.split('=').next()?));
    named.any(|name| names.contains(&name.to_ascii_lowercase().as_str()))
}

fn percent_decoded(name: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        let mut hex = || bytes.next().and_then(|digit| (digit as char).to_digit(16));
        match byte {
            b'%' => out.push((hex()? * 16 + hex()?) as u8),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Step 4. Made by [`Scanned::reserve`] alone.
pub(crate) struct Reserved {
    scanned: Scanned,
    metering: Metering,
}

/// How a request is paid for.
pub(crate) enum Metering {
    /// It costs nothing.
    Unmetered(#[expect(dead_code, reason = "a permit is held, not read")] Unmetered),
    /// So much is held for it.
    Held(Box<Held>),
}

/// What is held, and the request that it is held for.
pub(crate) struct Held {
    hold: Hold,
    kind: Kind,
    demand: Demand,
    body: Bytes,
}

impl Scanned {
    /// Holds what the request may cost. While only the holds of others are in the way it waits, as the budget's terms say.
    pub(crate) async fn reserve(mut self, flow: &Flow, routes: &RouteSet) -> Result<Reserved, Denial> {
        let nothing_runs = Use::Unmetered(Unmetered(Costless::NothingRuns));
        let metering = match std::mem::replace(&mut self.used, nothing_runs) {
            Use::Unmetered(permit) => Metering::Unmetered(permit),
            Use::Metered(target) => Metering::Held(Box::new(self.hold(target, flow, routes).await?)),
        };
        Ok(Reserved { scanned: self, metering })
    }

    async fn hold(&self, target: Target, flow: &Flow, routes: &RouteSet) -> Result<Held, Denial> {
        let by_rule = |denial: Denial| denial.by(&self.route.route().id);
        let body = self.body.whole().unwrap_or_default();
        let path = self.route.path();
        let mut demand = Demand::read(target.format, path, &body)
            .map_err(|error| by_rule(Denial::new(Reason::RequestUnbounded, error.to_string())))?;
        // Whoever is not one of these speaks a format of theirs, and may not know its latest word for a bound.
        if !["openai", "anthropic", "gemini"].contains(&target.meter.as_str()) {
            demand.bound_by_old_key();
        }
        let gateway = self.exchange.gateway();
        let lengths = || gateway.lengths.lock().expect("no panic under this lock");
        let known = demand.previous.as_deref().and_then(|name| lengths().of(self.permit.host(), name));
        let bound = Bound::going_on(known, &target, &mut demand, &body, gateway).map_err(by_rule)?;
        let mut ask = bound.ask(&target, model_of(path, &demand), &demand)?;
        let streams = if demand.streams { Streams::Yes } else { Streams::No };
        let (format, usage_asked_for) = (target.format, usage_asked_for(&target, &demand));
        let wire = Wire { format, streams, usage_asked_for, unseen: Unseen::of(format, &demand) };
        let mut hold = Hold::admit(&self.exchange, &ask, wire).await.map_err(|denial| bound.explain(denial))?;
        if hold.is_none() {
            let counted =
                count::ask(self, flow, routes, count::Prompt { target: &target, demand: &demand, body: &body });
            if let Some(tokens) = counted.await {
                ask.input = bound.counted(tokens);
            }
            ask = Ask { id: new_id()?, counted: Counted::Final, ..ask };
            hold = Hold::admit(&self.exchange, &ask, wire).await.map_err(|denial| bound.explain(denial))?;
        }
        let never = || Denial::new(Reason::LedgerUnavailable, "it asks for a count that was given");
        let mut hold = hold.ok_or_else(never)?;
        if !demand.streams {
            hold.hold_all().await;
        }
        fits(&hold, &demand).map_err(by_rule)?;
        Ok(Held { hold, kind: target.kind, demand, body })
    }
}

/// What a request may cost, in parts.
struct Bound {
    /// Most tokens that it reads.
    input: u64,
    /// Most of them that a provider's count does not show.
    beside: u64,
    output: u64,
    /// A tool of the provider's is among it, whose calls no one bounds.
    tool: bool,
}

impl Bound {
    /// For a request that goes on from what is known to have so many tokens.
    fn going_on(
        known: Option<u64>,
        target: &Target,
        demand: &mut Demand,
        body: &[u8],
        gateway: &Gateway,
    ) -> Result<Bound, Denial> {
        if known.is_some() {
            demand.beyond.remove(&Beyond::EarlierContext);
        }
        let mut bound = Bound::of(target, demand, body, gateway)?;
        if let Some(tokens) = known {
            let margin = tokens / EARLIER_MARGIN_PART;
            bound.input = bound.input.saturating_add(tokens).saturating_add(margin);
        }
        Ok(bound)
    }

    fn of(target: &Target, demand: &mut Demand, body: &[u8], gateway: &Gateway) -> Result<Bound, Denial> {
        let tool_calls = demand.limit_tools(gateway.limits.tool_calls_max);
        let model = demand.model.as_deref();
        let context = context_limit(model, target.format);
        let mut bound = Bound {
            input: input_bound(target.format, body, demand),
            beside: 0,
            output: match target.kind {
                Kind::Embed => 0,
                Kind::Generate => demand.output_max.unwrap_or_else(|| output_limit(model, target.format)),
            },
            tool: false,
        };
        for part in &demand.beyond {
            match part {
                // A count shows these, and the bound has them already.
                Beyond::Media | Beyond::EarlierContext => {}
                // Each of them reads and writes all of it once more; what reads them is counted below.
                Beyond::Fallback => {}
                Beyond::Background => {
                    let detail = "it would go on when nobody listens any more; leave `background` out";
                    return Err(Denial::new(Reason::RequestUnbounded, detail));
                }
                // What the model reads to shorten the conversation, and writes.
                Beyond::Compaction => {
                    let written = output_limit(model, target.format);
                    bound.beside = bound.beside.saturating_add(context).saturating_add(written);
                    bound.input = bound.input.saturating_add(written);
                }
                // Each call reads everything so far once more.
                Beyond::ProviderTool => {
                    let calls = context.saturating_mul(tool_calls);
                    bound.beside = bound.beside.saturating_add(calls);
                    bound.input = bound.input.saturating_add(calls);
                    bound.tool = true;
                }
            }
        }
        if demand.beyond.contains(&Beyond::Fallback) {
            let each = bound.input.saturating_add(bound.output).saturating_mul(FALLBACKS_MAX);
            (bound.input, bound.beside) = (bound.input.saturating_add(each), bound.beside.saturating_add(each));
        }
        Ok(bound)
    }

    fn ask(&self, target: &Target, model: Option<String>, demand: &Demand) -> Result<Ask, Denial> {
        let caching = match (target.kind, target.format) {
            (Kind::Embed, _) | (Kind::Generate, WireFormat::Gemini) => Caching::Impossible,
            (Kind::Generate, WireFormat::AnthropicMessages | WireFormat::OpenAiChat | WireFormat::OpenAiResponses) => {
                Caching::Possible
            }
        };
        Ok(Ask {
            id: new_id()?,
            meter: target.meter.clone(),
            model,
            input: self.input,
            counted: Counted::Bound,
            caching,
            output: self.output,
            answers: demand.answers.max(1),
        })
    }

    /// The input, once the provider has counted what it sees of it.
    fn counted(&self, tokens: u64) -> u64 {
        tokens.saturating_add(self.beside)
    }

    /// What stands in the way is the tool and not the text.
    fn explain(&self, denial: Denial) -> Denial {
        if denial.reason != Reason::BudgetExhausted || !self.tool {
            return denial;
        }
        let detail = format!("a tool that the provider runs reads as much as it finds; {}", denial.detail);
        Denial::new(Reason::RequestUnbounded, detail)
    }
}

/// The model by the request's body, else by its path, where Gemini has it.
fn model_of(path: &str, demand: &Demand) -> Option<String> {
    demand.model.clone().or_else(|| {
        let (resource, _) = path.rsplit_once(':')?;
        resource.rsplit_once('/').map(|(_, name)| name.to_owned())
    })
}

fn usage_asked_for(target: &Target, demand: &Demand) -> UsageAskedFor {
    if target.kind == Kind::Generate && demand.streams && !demand.asks_usage() {
        UsageAskedFor::ByGateway
    } else {
        UsageAskedFor::ByClient
    }
}

/// Does the provider take the bound that was granted? One that it would answer with an error is of no use.
fn fits(hold: &Hold, demand: &Demand) -> Result<(), Denial> {
    let (Some(granted), asked) = (hold.output_cap(), hold.ask().output) else { return Ok(()) };
    if granted >= asked {
        return Ok(());
    }
    let short = |what: String| Err(Denial::new(Reason::BudgetExhausted, what));
    match demand.thinking {
        Some(thinking) if granted <= thinking => {
            return short(format!("{granted} tokens of output are left, and it is to think for {thinking}"));
        }
        Some(_) | None => {}
    }
    if hold.wire().format == WireFormat::OpenAiResponses && granted < RESPONSES_OUTPUT_MIN {
        return short(format!(
            "{granted} tokens of output are left, and the provider takes no bound below {RESPONSES_OUTPUT_MIN}"
        ));
    }
    Ok(())
}

impl Held {
    /// The request's body as it may be sent now.
    fn body_to_send(&self) -> Bytes {
        let ask_usage = match self.hold.wire().usage_asked_for {
            UsageAskedFor::ByGateway => AskUsage::Yes,
            UsageAskedFor::ByClient => AskUsage::AsWritten,
        };
        match (self.kind, self.hold.output_cap()) {
            (Kind::Embed, _) => self.body.clone(),
            (Kind::Generate, Some(output)) => self.demand.bounded(&self.body, output, ask_usage).into(),
            // As it was written; only a stream is made to say what it cost, under the bound that it has anyhow.
            (Kind::Generate, None) if ask_usage == AskUsage::Yes => {
                self.demand.bounded(&self.body, self.hold.ask().output, ask_usage).into()
            }
            (Kind::Generate, None) => self.body.clone(),
        }
    }
}

impl Reserved {
    /// Apart for the next step: only `inject` calls this.
    pub(crate) fn into_parts(self) -> (Scanned, Metering) {
        (self.scanned, self.metering)
    }
}

/// The last step before the first byte: the hold is durable, and the request says what it may write.
pub(crate) struct Dispatched {
    request: Request<OutBody>,
    line: Option<Line>,
    rest: Rest,
}

impl Dispatched {
    /// Apart for the writing: only `upstream` calls this.
    pub(crate) fn into_parts(self) -> (Request<OutBody>, Option<Line>, Rest) {
        (self.request, self.line, self.rest)
    }
}

impl Credentialed {
    /// Makes the hold durable, once there is a connection to send on: one that cannot be had costs nothing.
    pub(crate) async fn dispatch(self, dialer: &Dialer, pool: &Arc<Pool>) -> Result<Dispatched, Denial> {
        let (mut request, mut rest, metering, filling) = self.into_parts();
        let mut held = match metering {
            Metering::Unmetered(_) => return Ok(Dispatched { request, line: None, rest }),
            Metering::Held(held) => held,
        };
        let line = pool.line(dialer, &rest.permit).await?;
        let Held { hold, demand, .. } = &mut *held;
        hold.dispatch(|hold| fits(hold, demand)).await?;
        let body = filling.body(held.body_to_send());
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        // Read as JSON in UTF-8, it is not to be read in another way: a charset makes other keys of the same octets.
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.body_mut().replace(body);
        rest.hold = Some(held.hold);
        Ok(Dispatched { request, line: Some(line), rest })
    }

    /// A request of the gateway's own that costs nothing: it has nothing to make durable.
    fn aside(self) -> Dispatched {
        let (request, rest, _, _) = self.into_parts();
        Dispatched { request, line: None, rest }
    }
}

/// A request beside the bottle's: through the same route, with the same credential, for nothing.
fn aside(scanned: &Scanned, head: request::Parts, route: RoutePermit, body: Vec<u8>) -> Reserved {
    let permit = Unmetered(Costless::Count);
    let scanned = Scanned {
        head,
        body: OutBody::Aside(Some(body.into())),
        gate: Arc::default(),
        permit: scanned.permit.clone(),
        route,
        exchange: scanned.exchange.clone(),
        used: Use::Unmetered(Unmetered(Costless::Count)),
        lifted: scanned.lifted.clone(),
        socket: None,
    };
    Reserved { scanned, metering: Metering::Unmetered(permit) }
}
