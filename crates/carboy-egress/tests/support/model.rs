//! The simulated provider behind a gateway, and each format's requests.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::ids::MeterName;
use carboy_core::route::{AuthScheme, PathMatch, RequestMatch, Route, RouteAuth};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use carboy_sim::{Bill, Config, Running, Simulator};
use http::Method;

use super::ledger::Memory;
use super::{Bench, Body, Client, Got, HOST, Kind, Origin, SECRET, full, handler, route, secret_name};

/// Nothing of a test takes longer.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// One way to ask a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Anthropic,
    Chat,
    Responses,
    Gemini,
}

pub const WAYS: [Way; 4] = [Way::Anthropic, Way::Chat, Way::Responses, Way::Gemini];

/// Whether the answer comes as events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Whole,
    Streamed,
}

impl Way {
    pub fn meter(self) -> &'static str {
        match self {
            Way::Anthropic => "anthropic",
            Way::Chat | Way::Responses => "openai",
            Way::Gemini => "gemini",
        }
    }

    pub fn path(self, answered: Answered) -> &'static str {
        match (self, answered) {
            (Way::Anthropic, _) => "/v1/messages",
            (Way::Chat, _) => "/v1/chat/completions",
            (Way::Responses, _) => "/v1/responses",
            (Way::Gemini, Answered::Whole) => "/v1beta/models/gemini-2.5-flash:generateContent",
            (Way::Gemini, Answered::Streamed) => "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        }
    }

    pub fn query(self, answered: Answered) -> &'static str {
        if self == Way::Gemini && answered == Answered::Streamed { "?alt=sse" } else { "" }
    }

    /// A question, with its own bound on the answer or none.
    pub fn body(self, answered: Answered, output_max: Option<u64>, words: &str) -> String {
        let stream = answered == Answered::Streamed;
        let cap = |key: &str| output_max.map(|max| format!(r#""{key}":{max},"#)).unwrap_or_default();
        match self {
            Way::Anthropic => {
                let cap = cap("max_tokens");
                format!(
                    r#"{{"model":"claude-sonnet-4-5",{cap}"stream":{stream},"messages":[{{"role":"user","content":"{words}"}}]}}"#
                )
            }
            Way::Chat => {
                let cap = cap("max_tokens");
                format!(
                    r#"{{"model":"gpt-4o",{cap}"stream":{stream},"messages":[{{"role":"user","content":"{words}"}}]}}"#
                )
            }
            Way::Responses => {
                let cap = cap("max_output_tokens");
                format!(r#"{{"model":"gpt-4o",{cap}"stream":{stream},"input":"{words}"}}"#)
            }
            Way::Gemini => {
                let cap = output_max
                    .map(|max| format!(r#""generationConfig":{{"maxOutputTokens":{max}}},"#))
                    .unwrap_or_default();
                format!(r#"{{{cap}"contents":[{{"role":"user","parts":[{{"text":"{words}"}}]}}]}}"#)
            }
        }
    }

    /// Where the output's bound stands in the body, as JSON pointers see it.
    pub fn bound_at(self) -> &'static [&'static str] {
        match self {
            Way::Anthropic => &["/max_tokens"],
            Way::Chat => &["/max_tokens", "/max_completion_tokens"],
            Way::Responses => &["/max_output_tokens"],
            Way::Gemini => &["/generationConfig/maxOutputTokens"],
        }
    }

    /// What ends its stream.
    pub fn end(self) -> &'static str {
        match self {
            Way::Anthropic => "message_stop",
            Way::Chat => "[DONE]",
            Way::Responses => "response.completed",
            Way::Gemini => "finishReason",
        }
    }

    pub fn request(
        self,
        client: &Client,
        answered: Answered,
        query: &str,
        body: impl Into<bytes::Bytes>,
    ) -> http::Request<Body> {
        let own = self.query(answered);
        let query = match (own, query) {
            (own, "") => own.to_owned(),
            ("", query) => format!("?{query}"),
            (own, query) => format!("{own}&{query}"),
        };
        let request = client
            .request(Method::POST, &format!("{}{query}", self.path(answered)))
            .header("content-type", "application/json");
        let request = match self {
            Way::Anthropic => request.header("anthropic-version", "2023-06-01"),
            Way::Chat | Way::Responses | Way::Gemini => request,
        };
        request.body(full(body)).unwrap()
    }
}

/// A route to a format's host, with the credential where the provider takes it.
pub fn route_of(way: Way) -> Route {
    let mut route = route(HOST);
    route.meter = Some(MeterName::parse(way.meter()).unwrap());
    let (header, scheme) = match way {
        Way::Anthropic => ("x-api-key", AuthScheme::AnthropicByToken),
        Way::Chat | Way::Responses => ("authorization", AuthScheme::Bearer),
        Way::Gemini => ("x-goog-api-key", AuthScheme::Bare),
    };
    route.auth = Some(RouteAuth { header: header.into(), scheme, secret: secret_name() });
    route
}

pub struct Model {
    pub bench: Bench,
    pub provider: Running,
}

pub fn config() -> Config {
    let names = vec![HOST.to_owned()];
    Config {
        anthropic_key: SECRET.into(),
        openai_key: SECRET.into(),
        gemini_key: SECRET.into(),
        names,
        ..Config::default()
    }
}

impl Model {
    pub async fn start(ledger: Arc<Memory>, route: Route, config: Config, limits: GatewayLimits) -> Model {
        Model::with(ledger, vec![route], config, limits).await
    }

    /// All formats on one host, each by a route of its own.
    pub async fn of_all(ledger: Arc<Memory>, config: Config, limits: GatewayLimits) -> Model {
        let below = |way: Way, path: &str| {
            let paths = vec![PathMatch::Prefix(path.into())];
            Route { matches: vec![RequestMatch { paths, ..RequestMatch::default() }], ..route_of(way) }
        };
        let routes = vec![
            below(Way::Anthropic, "/v1/messages"),
            below(Way::Chat, "/v1/chat"),
            below(Way::Responses, "/v1/responses"),
            below(Way::Gemini, "/v1beta"),
        ];
        Model::with(ledger, routes, config, limits).await
    }

    pub async fn with(ledger: Arc<Memory>, routes: Vec<Route>, config: Config, limits: GatewayLimits) -> Model {
        let provider = Simulator::start(config).await.unwrap();
        let mut upstreams = Upstreams::default();
        let extra_ca_pem = Some(provider.ca_pem().to_owned());
        let upstream = Upstream { address: provider.tls_addr, transport: Transport::Tls, extra_ca_pem };
        upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
        let unused = handler(|_| async { http::Response::new(full("")) });
        let origin = (Arc::new(Origin::default()), unused);
        let bench = Bench::governed(ledger, upstreams, Kind::Plain, routes, origin, limits).await;
        Model { bench, provider }
    }

    pub async fn of(way: Way, ledger: Arc<Memory>) -> Model {
        Model::start(ledger, route_of(way), config(), GatewayLimits::default()).await
    }

    pub async fn client(&self) -> Client {
        self.bench.client(&["h2", "http/1.1"]).await
    }

    /// Everything has been told to the ledger.
    pub async fn settled(&self) {
        assert_eq!(self.bench.gateway.settled(WAIT_MAX).await, 0, "something was never settled");
    }

    pub fn bill(&self) -> Bill {
        self.provider.bill()
    }

    /// The body of the last request that reached the provider.
    pub fn last_body(&self) -> serde_json::Value {
        let received = self.provider.received();
        serde_json::from_slice(&received.last().expect("a request reached the provider").body).unwrap()
    }
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_MAX, work).await.expect("it takes too long")
}

/// Asks and reads to the end.
pub async fn ask(client: &mut Client, way: Way, answered: Answered, output_max: Option<u64>) -> Got {
    let request = way.request(client, answered, "", way.body(answered, output_max, "hello"));
    within(client.send(request)).await
}
