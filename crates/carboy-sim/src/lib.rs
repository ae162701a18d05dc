//! The simulated provider: Anthropic's, OpenAI's and Gemini's wire formats, streams included, over real sockets, without a model.
//!
//! The tour, the tests and a curious person talk to it as to the real thing. What comes back is scripted and says so
//! (`x-simulated: carboy-sim`, and the default answer's own words), or made by the rules of the [`offline`] model, whose
//! answers name `carboy-offline` as their model. It refuses every key but the one it was started with, writes down what
//! reached it, keeps its own bill, and fails in the ways that real providers fail when asked to.
//!
//! ```text
//!            ┌ tls ┐
//! socket ──▶ server ──▶ record ──▶ route ──▶ anthropic │ openai │ responses │ gemini │ pages ──▶ playback ──▶ socket
//!              └ websocket, grpc ┘                        usage: what it costs                     count: the bill
//! ```
//!
//! *Architecture invariants:* the provider never opens a connection; it listens on loopback unless it is handed a
//! listener; it has no model, no clock in its answers and no randomness but a seed's, so that the same request gets the same
//! answer (what of it is read from a cache depends, as anywhere, on what was asked before); its bill is made of what it
//! generates and shares nothing with the meters that are compared with it.
//!
//! Tokens are bytes divided by four, rounded up: of the request's body for the input, of the words, tool names and
//! tool arguments for the output. No tokenizer is meant by it; the figures are only consistent. [`UsageMode::Random`]
//! makes them as hard to foresee as a real provider's.

mod anthropic;
mod cache;
mod coding;
mod config;
mod count;
mod faults;
mod gemini;
mod grpc;
pub mod offline;
mod openai;
mod origin;
mod pages;
mod playback;
pub mod probe;
mod record;
mod refusal;
mod responses;
mod route;
mod script;
mod server;
mod tls;
mod usage;
mod websocket;

pub use config::{Alpn, Config, Customer, Speaker, WebSockets};
pub use count::{Account, Bill, Billed, OnBilled, tokens};
pub use faults::{Break, FaultError, FaultStatus, FaultWhy, Faults};
pub use origin::Origin;
pub use pages::SeededBytes;
pub use record::ReceivedRequest;
pub use script::{Prompt, Reply, Script, ToolCall};
pub use server::{Running, SimError, Simulator};
pub use usage::{InputTokens, RandomUsage, Shown, Thinking, UsageMode};
