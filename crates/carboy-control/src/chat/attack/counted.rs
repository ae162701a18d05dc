//! An agent's tools, each with a count of what became of its calls: an attack says nothing of a tool that never worked.
//!
//! *Must never* change a call, its answer or who may make it: what is attacked is the agent as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use carboy_agent::tool::{Authorization, Retry};
use carboy_agent::{Call, Card, InvalidArguments, Output, Principal, Tool, ToolError, ToolSpec};
use carboy_core::ports::Later;
use serde::Serialize;
use serde_json::{Map, Value};

/// What became of the calls of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// The tool.
    pub tool: String,
    /// It gave a result.
    pub succeeded: u64,
    /// Its answer was no.
    pub refused: u64,
    /// It broke, or did not answer.
    pub failed: u64,
}

impl Calls {
    /// Did any call succeed? Otherwise nothing about the tool was tried.
    pub fn was_tried(&self) -> bool {
        self.succeeded > 0
    }
}

/// See the module.
pub(super) struct Counted {
    tool: Arc<dyn Tool>,
    called: AtomicU64,
    succeeded: AtomicU64,
    refused: AtomicU64,
}

impl Counted {
    pub(super) fn of(tool: &Arc<dyn Tool>) -> Arc<Counted> {
        let (called, succeeded, refused) = Default::default();
        Arc::new(Counted { tool: tool.clone(), called, succeeded, refused })
    }

    /// So far.
    pub(super) fn calls(&self) -> Calls {
        let [called, succeeded, refused] =
            [&self.called, &self.succeeded, &self.refused].map(|count| count.load(Ordering::Relaxed));
        // One that was given up on never came back.
        let failed = called.saturating_sub(succeeded + refused);
        Calls { tool: self.tool.spec().schema.name.clone(), succeeded, refused, failed }
    }

    async fn counted(&self, call: Call<'_>) -> Result<Output, ToolError> {
        self.called.fetch_add(1, Ordering::Relaxed);
        let result = self.tool.call(call).await;
        match &result {
            Ok(_) => self.succeeded.fetch_add(1, Ordering::Relaxed),
            Err(ToolError::Refused { .. }) => self.refused.fetch_add(1, Ordering::Relaxed),
            Err(ToolError::Failed { .. }) => 0,
        };
        result
    }
}

impl Tool for Counted {
    fn spec(&self) -> &ToolSpec {
        self.tool.spec()
    }

    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments> {
        self.tool.check(arguments)
    }

    fn authorize(&self, principal: &Principal, arguments: &Map<String, Value>) -> Authorization {
        self.tool.authorize(principal, arguments)
    }

    fn card(&self, arguments: &Map<String, Value>) -> Option<Card> {
        self.tool.card(arguments)
    }

    fn precheck(&self, call: &Call<'_>) -> Result<(), ToolError> {
        self.tool.precheck(call)
    }

    fn retry(&self) -> Retry {
        self.tool.retry()
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(self.counted(call))
    }
}
