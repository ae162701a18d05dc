//! The guarded tool loop of chat agents: sessions, seven layers, tools as types.
//!
//! ```text
//!  message ─▶ rate limit ─▶ input ─▶ injection ─▶ prompt + model ─▶ tools (authorize, validate, prove, confirm) ─┐
//!                                                      ▲                                                         │
//!                                                      └──────────────── results ◀───────────────────────────────┘
//!  reply ◀─ released sentence by sentence ◀─ filtered, grounded ◀─ answer            every decision ─▶ audit
//! ```
//!
//! *Architecture invariants:* nothing here opens a socket, a file or a process: models and HTTP tools are reached through
//! [`Outbound`](carboy_core::ports::Outbound), sessions live behind [`SessionStore`](carboy_core::ports::SessionStore),
//! tools of others come as [`Tool`]s from the composer. A principal comes from the runtime, never from an argument. What a
//! model says decides nothing: it can ask for a tool, and code decides. Layers are on by default and fail closed.

mod answer;
mod answers;
pub mod application;
pub mod attack;
mod audit;
pub mod builtin;
mod calls;
mod canonical;
mod confirm;
pub mod disclosure;
pub mod engine;
pub mod guard_state;
pub mod handler;
mod kept;
mod keys;
pub mod layers;
mod locks;
pub mod metrics;
pub mod model;
pub mod notice;
mod opened;
pub mod outcome;
pub mod principal;
pub mod provider;
mod reading;
mod repeats;
mod requests;
mod requires;
mod screens;
pub mod session;
mod talk;
pub mod tool;
mod turn;
mod unasked;

pub use application::Application;
pub use disclosure::{Disclosing, NotShown, disclose};
pub use engine::{Asker, Engine, EngineError, FEEDBACK_REASONS, Judgement, Parts, Remark, Watch};
pub use guard_state::{GuardState, Mint, NotProven, Proof, Proven};
pub use handler::Handler;
pub use metrics::{Counter, Metrics};
pub use model::{Model, ModelError};
pub use notice::{About, Notice, Notices, Wanted};
pub use outcome::{Card, HandOff, Reply, StepPhase, TurnError, TurnEvent};
pub use principal::{ANONYMOUS, Principal, PrincipalKind, TERMINAL_USER};
pub use provider::{ProviderModel, Terms};
pub use requires::NotYet;
pub use session::{Line, NoRandomness, SessionId, Who};
pub use tool::{Authorization, Call, Effect, InvalidArguments, Output, Retry, Tool, ToolError, ToolSpec};
