//! What a simulated provider is started with.

use std::fmt;

use crate::count::OnBilled;
use crate::faults::Faults;
use crate::offline::OfflineModel;
use crate::script::Script;
use crate::usage::UsageMode;

/// What a simulated provider is started with. [`Config::default`] is what the tour uses.
#[derive(Clone)]
pub struct Config {
    /// The one key that `/v1/messages` and its siblings take, as `x-api-key` or `Authorization: Bearer`. Empty: none is asked
    /// for, as by a model of one's own machine.
    pub anthropic_key: String,
    /// The one key that OpenAI's endpoints take, as `Authorization: Bearer`. Empty: none is asked for.
    pub openai_key: String,
    /// The one token that the ChatGPT subscription's endpoints take, as `Authorization: Bearer`.
    pub chatgpt_token: String,
    /// The one account that they serve: the field `chatgpt-account-id` has to name it.
    pub chatgpt_account: String,
    /// The one key that Gemini's endpoints take, as `x-goog-api-key`.
    pub gemini_key: String,
    /// Names (and addresses) in the certificate, besides `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// What the TLS listener offers.
    pub alpn: Alpn,
    /// Who answers messages and chat completions; the other formats are answered by the script.
    pub speaker: Speaker,
    /// What it answers.
    pub script: Script,
    /// How it fails; a request's own `x-sim-fault` field takes precedence.
    pub faults: Faults,
    /// Further keys, each with a bill of its own.
    pub customers: Vec<Customer>,
    /// What an answer costs.
    pub usage: UsageMode,
    /// Most tokens that are generated after a client left or a connection broke, up to what the cap allows: it takes a
    /// provider a while to notice.
    pub overshoot_tokens_max: u64,
    /// Whether Responses are served over WebSockets.
    pub websockets: WebSockets,
    /// Told every step of the bill.
    pub on_billed: Option<OnBilled>,
}

/// Somebody with a key of their own, which every provider takes.
#[derive(Clone)]
pub struct Customer {
    /// What the bill calls them.
    pub name: String,
    /// Their key.
    pub key: String,
}

/// Who answers messages and chat completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaker {
    /// The script.
    #[default]
    Script,
    /// Rules that hold a conversation and use the tools on offer.
    Offline(OfflineModel),
}

/// Whether Responses are served over WebSockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebSockets {
    /// 426, which clients take for "use POST".
    #[default]
    Refused,
    /// `GET /v1/responses` is upgraded.
    Served,
}

/// Which protocols the TLS listener offers. The plain listener takes HTTP/1.1 and HTTP/2 with prior knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// `h2` and `http/1.1`.
    #[default]
    Both,
    /// `http/1.1` alone.
    Http1Only,
    /// `h2` alone.
    Http2Only,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            anthropic_key: "sk-ant-sim-real-key".into(),
            openai_key: "sk-sim-real-key".into(),
            chatgpt_token: "sim-real-chatgpt-token".into(),
            chatgpt_account: "sim-account".into(),
            gemini_key: "AIza-sim-real-key".into(),
            names: Vec::new(),
            alpn: Alpn::default(),
            speaker: Speaker::default(),
            script: Script::default(),
            faults: Faults::default(),
            customers: Vec::new(),
            usage: UsageMode::default(),
            overshoot_tokens_max: 0,
            websockets: WebSockets::default(),
            on_billed: None,
        }
    }
}

impl Config {
    /// The offline model, for chat agents without a key: see [`offline`](crate::offline). What is asked again is read from a
    /// cache, as at a provider.
    pub fn offline() -> Config {
        Config { speaker: Speaker::Offline(OfflineModel), usage: UsageMode::Cached, ..Config::default() }
    }

    /// No model is asked: what it says comes from rules or a script.
    pub fn is_offline(&self) -> bool {
        matches!(self.speaker, Speaker::Offline(model) if model.is_offline())
    }
}

impl fmt::Debug for Config {
    /// Without the keys: a test may start it with one that must not be shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("names", &self.names).field("alpn", &self.alpn).finish_non_exhaustive()
    }
}
